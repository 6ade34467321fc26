"""Takes a compiled network's features of pictures, to learn what those look like that it was trained on."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.arrays import InputBatch
from app.config.cpu_count import count_cores
from app.engines.compiled.compile_report import COMPILED_FOLDER, read_ir
from app.engines.compiled.feature_distance import add_features, count_features, find_layers
from app.errors import CompiledModelError

MIDDLE = 0.2, 0.6
"""Which layers are looked at: from this part of the network's depth to that. The first see edges alone; the last have
thrown away what does not tell the classes apart.
"""
MAX_FEATURES = 1024
"""More of them make a file of over 4 MB, and cost a prediction more than 0.1 ms."""


class FeatureExtractor:
    """A compiled network that answers its features; raises `CompiledModelError` if it has none that can be used."""

    def __init__(self, folder: Path, ir_sha256: str) -> None:
        import openvino

        model = openvino.Core().read_model(*read_ir(folder / COMPILED_FOLDER, ir_sha256))
        self.layers = choose_layers([count_features(layer) for layer in find_layers(model)])
        options = {"INFERENCE_NUM_THREADS": count_cores(), "INFERENCE_PRECISION_HINT": "f32"}
        self._request: Any = (
            openvino.Core().compile_model(add_features(model, self.layers), "CPU", options).create_infer_request()
        )

    def extract(self, batch: InputBatch) -> NDArray[np.float32]:
        """Return the features of pictures, float32 [N, features]."""
        features: NDArray[np.float32] = np.array(self._request.infer({0: batch})[1])
        return features


def choose_layers(features: list[int]) -> NDArray[np.int64]:
    """Choose layers by the number of features of each: those of the middle, the narrow ones first."""
    first, last = (round(part * len(features)) for part in MIDDLE)
    chosen: list[int] = []
    for layer in sorted(range(first, min(last + 1, len(features))), key=lambda layer: features[layer]):
        if sum(features[each] for each in (*chosen, layer)) <= MAX_FEATURES:
            chosen.append(layer)
    if not chosen:
        raise CompiledModelError(f"the network has no middle layers of at most {MAX_FEATURES} features")
    return np.array(sorted(chosen), dtype=np.int64)
