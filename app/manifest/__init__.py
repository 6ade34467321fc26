"""`model.toml`, read into checked types, and the bounds of every number from outside.

It must not know where models lie or how they run.
"""
