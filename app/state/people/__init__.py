"""What the state store keeps of people: the users of servers that share a database, and who did what. No models."""
