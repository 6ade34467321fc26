"""Health and metrics, for probes and Prometheus. It knows `request` alone, and changes nothing."""
