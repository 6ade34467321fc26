"""Predictions and explanations, as TorchServe's clients ask for them. It knows no engine."""
