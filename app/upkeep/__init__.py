"""What an operator does with a whole installation: back it up, restore it. It knows no request."""
