"""What BentoML runs."""

import os
from pathlib import Path

import bentoml
import torch
from eager_model import EagerModel
from PIL import Image


@bentoml.service(workers=2)
class EagerService:
    """Two worker processes, each with a dispatcher that gathers batches."""

    def __init__(self) -> None:
        self.model = EagerModel(Path(__file__).parent)

    @bentoml.api(batchable=True, max_batch_size=int(os.environ["PEER_BATCH_SIZE"]))
    def classify(self, images: list[Image.Image]) -> list[dict[str, float]]:
        """Answer a batch."""
        return self.model.infer(torch.stack([self.model.resize(image) for image in images]))
