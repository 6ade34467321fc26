"""What TorchServe runs: the shipped pcam model, eager, with the preprocessing of its manifest.

`torch-model-archiver` packs this file with the state dict and `torch_architectures.py`; nothing else of ours is there.
"""

import io

import numpy as np
import torch
from PIL import Image
from torch_architectures import ARCHITECTURES
from ts.torch_handler.base_handler import BaseHandler

CLASSES = ("normal", "metastatic")
MEAN, STD = 127.0, 128.0


class PcamHandler(BaseHandler):
    """One thread a worker, since there are as many workers as cores."""

    def initialize(self, context):
        """Load the weights."""
        torch.set_num_threads(1)
        self.model = ARCHITECTURES["efficientnet_lite0"](len(CLASSES))
        folder = context.system_properties["model_dir"]
        state = torch.load(f"{folder}/{context.manifest['model']['serializedFile']}", weights_only=True)
        self.model.load_state_dict(state)
        self.model.eval()
        self.initialized = True

    def preprocess(self, data):
        """Decode a batch of requests."""
        pictures = []
        for row in data:
            image = Image.open(io.BytesIO(row.get("data") or row.get("body"))).convert("RGB").resize((96, 96))
            pictures.append(torch.from_numpy(np.array(image)))
        return (torch.stack(pictures).permute(0, 3, 1, 2).float() - MEAN) / STD

    def inference(self, data):
        """Run the network."""
        with torch.inference_mode():
            return self.model(data)

    def postprocess(self, data):
        """Answer the probabilities by class."""
        return [dict(zip(CLASSES, row, strict=True)) for row in torch.softmax(data, 1).tolist()]
