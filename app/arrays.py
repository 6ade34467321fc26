"""The named array types that pass between the steps of a prediction."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RGBImage: TypeAlias = NDArray[np.uint8]
"""One picture: uint8, [H, W, 3], RGB, 0 to 255, C-contiguous."""

InputBatch: TypeAlias = NDArray[np.uint8]
"""What an engine takes: uint8, [N, H, W, 3], RGB, 0 to 255, H and W as the manifest says, C-contiguous."""

Scores: TypeAlias = NDArray[np.float32]
"""What an engine returns: float32, [N, outputs], before the activation; row i belongs to image i."""

Probabilities: TypeAlias = NDArray[np.float64]
"""After the activation: float64, [N, classes], each row sums to 1, columns in the manifest's class order."""
