"""`model.toml`, read into checked types. It knows the words of the file, not where models lie or how they run."""
