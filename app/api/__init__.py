"""Everything that knows HTTP: one room a surface, `request` for what they share. It never imports a framework."""
