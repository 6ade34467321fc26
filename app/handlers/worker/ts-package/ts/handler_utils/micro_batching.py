"""Batches that a handler works on in smaller parts."""

from collections.abc import Sequence
from typing import Any


class MicroBatching:
    """Called in place of a handler's `handle`: gives its steps a batch in parts, and puts the answers together."""

    def __init__(self, parent_handler: Any, micro_batch_size: int = 1) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size

    def handle(self, data: Sequence[Any], context: Any) -> list[Any]:
        """Answer a batch part by part, in order."""
        self.handler.context = context
        answers: list[Any] = []
        for start in range(0, len(data), self.micro_batch_size):
            part = data[start : start + self.micro_batch_size]
            answers += self.handler.postprocess(self.handler.inference(self.handler.preprocess(part)))
        return answers

    __call__ = handle
