"""What every request passes: who asks, on which surface, its body, its log line, its errors. It knows no model."""
