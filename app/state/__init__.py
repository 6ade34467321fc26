"""What is wanted of the models, kept for all workers, and how far each worker is.

It must not know models in memory.
"""
