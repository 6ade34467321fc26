"""Pictures on disk become a table. Knows no terminal: the command says what is shown, and how it ends."""
