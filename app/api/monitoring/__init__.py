"""Health and metrics: what probes and Prometheus read. It changes nothing."""
