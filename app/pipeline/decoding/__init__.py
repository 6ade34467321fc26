"""From the bytes of a picture to its pixels; start at `decode.py`. It knows files and pixels, and no model."""
