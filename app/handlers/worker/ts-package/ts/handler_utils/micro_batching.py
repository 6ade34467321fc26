"""Batches that a handler works on in smaller parts."""

from collections.abc import Sequence
from typing import Any


class MicroBatching:
    """Called in place of a handler's `handle`: gives it a batch in parts, and puts the answers together.

    Args:
        parent_handler: whose preprocess, inference and postprocess are called.
        micro_batch_size: requests in a part.
    """

    def __init__(self, parent_handler: Any, micro_batch_size: int = 1) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.parallelism: dict[str, int] = {}

    def handle(self, data: Sequence[Any], context: Any) -> list[Any]:
        """Answer a batch part by part, in order."""
        self.handler.context = context
        answers: list[Any] = []
        for start in range(0, len(data), self.micro_batch_size):
            part = data[start : start + self.micro_batch_size]
            answers += self.handler.postprocess(self.handler.inference(self.handler.preprocess(part)))
        return answers

    def __call__(self, data: Sequence[Any], context: Any) -> list[Any]:
        """Do as `handle`, in the form of an entry point."""
        return self.handle(data, context)
