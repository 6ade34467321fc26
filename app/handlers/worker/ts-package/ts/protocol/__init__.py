"""What handlers import from `ts.protocol`."""
