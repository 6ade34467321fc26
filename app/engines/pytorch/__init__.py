"""PyTorch: its weights, architectures and programs, and how they become an IR. Nothing else imports torch."""
