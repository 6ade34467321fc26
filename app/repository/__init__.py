"""Model folders on disk: find, check, stage, sign. It knows nothing of models in memory, or of what is wanted."""
