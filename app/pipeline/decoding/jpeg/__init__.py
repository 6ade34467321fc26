"""JPEG, which libjpeg reads as whole where it was cut; start at `jpeg_format.py`. It knows nothing of other formats."""
