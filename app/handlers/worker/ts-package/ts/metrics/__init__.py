"""What handlers import from `ts.metrics`."""
