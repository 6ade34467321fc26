"""The default handlers."""
