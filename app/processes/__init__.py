"""How our processes talk, lock and are confined. It knows no model: what a process does is passed in by name."""
