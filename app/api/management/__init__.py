"""TorchServe's management API, and our own descriptions of models. It knows `predict` and `request` alone."""
