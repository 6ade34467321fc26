"""Models on disk (`model_repository`) and in memory (`model_registry`)."""
