"""Everything between bytes and answer; `served_model.py` is the place to start."""
