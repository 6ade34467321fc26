"""Who may come in: passwords, how often they may be tried, and how much one user may ask for. It knows no route."""
