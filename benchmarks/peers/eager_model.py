"""What the peers run: a model folder's weights in PyTorch, eager, with the preprocessing of its manifest.

It is copied beside the weights, the manifest and `torch_architectures.py`; nothing else of ours is in
a peer's process.
"""

import io
import tomllib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch_architectures import ARCHITECTURES


class EagerModel:
    """A model of one thread, since every peer runs as many workers as there are cores."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        manifest = tomllib.loads((folder / "model.toml").read_text())
        settings = manifest["input"]
        self._size = settings["width_px"], settings["height_px"]
        self._mean, self._std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
        self._classes = manifest["output"]["classes"]
        self._network = ARCHITECTURES[manifest["artifact"]["architecture"]](len(self._classes))
        self._network.load_state_dict(load_file(folder / "model.safetensors"))
        self._network.eval()

    def decode(self, body: bytes) -> torch.Tensor:
        """Decode a picture to uint8 [height, width, 3]."""
        return self.resize(Image.open(io.BytesIO(body)))

    def resize(self, image: Image.Image) -> torch.Tensor:
        """Bring a picture to uint8 [height, width, 3]."""
        image = image.convert("RGB")
        if image.size != self._size:
            image = image.resize(self._size, Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image))

    def infer(self, batch: torch.Tensor) -> list[dict[str, float]]:
        """Answer the probabilities by class of each picture of a batch, uint8 [N, height, width, 3].

        The network gets the batch with its channels last in memory, as PyTorch recommends: it takes less than half of
        what it takes with the channels first.
        """
        with torch.inference_mode():
            logits = self._network((batch.permute(0, 3, 1, 2).float() - self._mean) / self._std)
            rows = torch.softmax(logits, 1).tolist()
        return [dict(zip(self._classes, row, strict=True)) for row in rows]
