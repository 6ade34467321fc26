"""TorchServe's management API: register, scale, unregister. It asks the registry and changes nothing itself."""
