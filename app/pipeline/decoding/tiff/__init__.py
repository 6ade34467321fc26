"""TIFF, the format with the most kinds; start at `tiff_format.py`. It knows tags, and JPEG, which may lie inside."""
