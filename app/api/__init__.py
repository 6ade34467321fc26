"""Everything that knows HTTP: a room for each surface, and `request` for what they share. It imports no framework."""
