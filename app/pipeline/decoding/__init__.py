"""From the bytes of a picture to its pixels; start at `decode.py`.

Of a model it knows only how its input is normalized.
"""
