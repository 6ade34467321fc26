"""From the bytes of a picture to its pixels: limits before pixels, then whether it is whole. It knows no model."""
