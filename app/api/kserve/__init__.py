"""KServe v1 and the Open Inference Protocol v2, over the same models. It knows `predict` and `request` alone."""
