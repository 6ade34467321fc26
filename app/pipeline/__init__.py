"""The way of a picture from bytes to a decision; start at `served_model.py`. It knows no HTTP and no framework."""
