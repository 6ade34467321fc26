"""The page: templates and styles for browsers."""
