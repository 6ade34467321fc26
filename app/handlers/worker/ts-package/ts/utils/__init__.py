"""What handlers import from `ts.utils`; the name is TorchServe's."""
