"""Lets torchvision be imported beside a CPU build of PyTorch."""

import importlib.machinery

import torch

OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch ships no annotation
"""Keeps the declared schemas alive."""


def declare_operators() -> None:
    """Declare two of torchvision's operators, unless its own library has them; call before its first import.

    The registries' torchvision is built for CUDA: beside a CPU build its compiled operators do not load, and the import
    fails on two that it only wants to describe. Their schemas are enough for everything that does not call them.
    """
    if hasattr(torch.ops.torchvision, "nms"):
        return
    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    if spec is None:  # not installed: importing it will say so
        return
    library = importlib.machinery.PathFinder.find_spec("_C", spec.submodule_search_locations)
    if library is not None:
        try:
            torch.ops.load_library(library.origin)  # type: ignore[no-untyped-call]  # as above
        except OSError:  # it needs CUDA's libraries
            pass
        else:
            return
    for name in ("nms", "qnms"):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]  # as above
