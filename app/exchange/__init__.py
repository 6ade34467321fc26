"""Models on their way in and out: formats, archives, downloads, quarantine. It knows nothing of models in memory."""
