"""Everything between bytes and answer; start at `served_model.py`. It knows no HTTP and no framework."""
