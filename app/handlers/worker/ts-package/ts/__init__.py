"""The names that TorchServe's handlers import, made anew for them: what they rely on, and no more.

On the path of a handler's process only. All names are TorchServe's; the behaviour was written from its documented
surface. Nothing here needs captum, pynvml or psutil; only the modules of tensors import torch.
"""

__version__ = "0.12.0"
