"""The pages: templates and styles for browsers. It holds no code."""
