"""What is compiled: its files and their reports, and the engine that runs them; needs no framework."""
