"""What is wanted of the models, kept for all workers, and how far each is. It knows no model that runs."""
