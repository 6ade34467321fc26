"""JPEG; start at `jpeg_format.py`. It knows nothing of other formats."""
