"""Models in memory, and how what is wanted becomes what is served. It knows no HTTP."""
