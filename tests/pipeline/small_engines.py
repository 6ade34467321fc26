"""Small real engines: what `BatchRunner` and `ServedModel` are tested with."""

import threading
from pathlib import Path

import numpy as np

from app.arrays import InputBatch, Scores
from app.errors import InferenceError
from app.manifest.model_manifest import Artifact, ModelManifest
from app.manifest.model_specs import InputSpec, OutputSpec

PATIENCE_S = 20
"""How long a test waits for another thread before it fails; no test takes it when it passes."""


def make_manifest(classes: tuple[str, ...] = ("dark", "bright")) -> ModelManifest:
    """The manifest of a model of 6x4 pixels."""
    two = len(classes) == 2
    return ModelManifest(
        name="test-model",
        version="1.0",
        title="A test",
        description="A test.",
        framework="torch",
        engine="compiled",
        licence="CC0-1.0",
        intended_use="Tests.",
        artifact=Artifact("model.safetensors", "0" * 64, "none"),
        input=InputSpec(6, 4, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), None),
        output=OutputSpec(
            classes,
            "softmax",
            classes[1] if two else None,
            0.5 if two else None,
            "a test" if two else None,
        ),
        metrics={},
    )


class MeanEngine:
    """Scores a picture by its mean brightness, so that a row in the wrong place shows."""

    def __init__(self, folder: Path = Path(), manifest: ModelManifest | None = None, threads: int = 1) -> None:
        self.batch_sizes: list[int] = []
        self.closed = False

    def load(self) -> None:
        """Nothing to load."""

    def infer(self, batch: InputBatch) -> Scores:
        assert not self.closed
        self.batch_sizes.append(len(batch))
        mean = batch.reshape(len(batch), -1).mean(axis=1)
        return np.stack([np.zeros(len(batch)), mean / 64 - 2], axis=1).astype(np.float32)

    def close(self) -> None:
        self.closed = True


class HeldEngine(MeanEngine):
    """Stops in `infer` until it is let go; counts how many are in it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.may_go = threading.Semaphore(0)
        self.most_at_once = 0
        self._inside = 0
        self._count = threading.Lock()

    def infer(self, batch: InputBatch) -> Scores:
        with self._count:
            self._inside += 1
            self.most_at_once = max(self.most_at_once, self._inside)
        self.entered.release()
        assert self.may_go.acquire(timeout=PATIENCE_S)
        with self._count:
            self._inside -= 1
        return super().infer(batch)


class FailingEngine(MeanEngine):
    """Fails on the first calls, then works."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self._failures = failures

    def infer(self, batch: InputBatch) -> Scores:
        if self._failures:
            self._failures -= 1
            raise InferenceError("The model failed.")
        return super().infer(batch)
