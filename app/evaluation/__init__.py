"""Models on labelled pictures: figures, thresholds, the best version, INT8. It knows no HTTP and no request."""
