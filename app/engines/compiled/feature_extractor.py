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

MAX_FEATURES = 1024
"""Of a group. More of them make a file of over 4 MB, and cost a prediction more than 0.1 ms."""


class FeatureExtractor:
    """A compiled network that answers its features; raises `CompiledModelError` if it has none that can be used."""

    def __init__(self, folder: Path, ir_sha256: str) -> None:
        import openvino

        model = openvino.Core().read_model(*read_ir(folder / COMPILED_FOLDER, ir_sha256))
        self.groups = choose_layers([count_features(layer) for layer in find_layers(model)])
        options = {"INFERENCE_NUM_THREADS": count_cores(), "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(add_features(model, self.groups), "CPU", options)
        self._takes_one = compiled.input(0).partial_shape[0].is_static  # a program that was exported for one picture
        self._request: Any = compiled.create_infer_request()

    def extract(self, batch: InputBatch) -> list[NDArray[np.float32]]:
        """Return the features of pictures by each group of layers, float32 [N, features]."""
        if self._takes_one and len(batch) > 1:
            rows = [self.extract(one[np.newaxis]) for one in batch]
            return [np.concatenate(group) for group in zip(*rows, strict=True)]
        self._request.infer({0: batch})
        return [np.array(self._request.get_output_tensor(1 + number).data) for number in range(len(self.groups))]


def choose_layers(features: list[int]) -> list[list[int]]:
    """Choose two groups of layers by the number of features of each layer, narrow ones first.

    The first third of the network sees colours and textures, and whether a picture is dark, blurred or overexposed; the
    second sees what things look like. The last has thrown away what does not tell the classes apart. Measured on
    EfficientNet-Lite0: either group alone misses kinds of pictures. Raises `CompiledModelError` if no layer is narrow
    enough.
    """
    first, second = (max(1, round(part * len(features))) for part in (1 / 3, 2 / 3))
    groups = []
    for part in (range(min(first, len(features))), range(first, second)):
        chosen: list[int] = []
        for layer in sorted(part, key=lambda layer: features[layer]):
            if sum(features[each] for each in (*chosen, layer)) <= MAX_FEATURES:
                chosen.append(layer)
        if chosen:
            groups.append(sorted(chosen))
    if not groups:
        raise CompiledModelError(
            f"the network has no layers of at most {MAX_FEATURES} features in its first two thirds"
        )
    return groups
