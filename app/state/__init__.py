"""What is wanted of the models, and how far each worker is, kept for all workers. It knows no model in memory."""
