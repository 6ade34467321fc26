"""TIFF, the format with the most kinds; start at `tiff_format.py`. It knows tags, and nothing of other formats."""
