"""The recipes that made the shipped models."""
