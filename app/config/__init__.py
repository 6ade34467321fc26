"""What an operator can turn: every setting, checked once. It knows no model, no request and no framework."""
