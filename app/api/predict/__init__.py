"""Predictions and explanations, as our own answers and as TorchServe's. It knows `request` alone."""
