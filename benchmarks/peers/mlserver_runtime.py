"""What MLServer runs: a custom runtime."""

from pathlib import Path

import torch
from eager_model import EagerModel
from mlserver import MLModel
from mlserver.codecs import Base64Codec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class EagerRuntime(MLModel):
    """MLServer makes one request of several before it gets here, and takes the answer apart again."""

    async def load(self) -> bool:
        """Load the weights."""
        self.network = EagerModel(Path(__file__).parent)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a batch: one output of each class."""
        pictures = Base64Codec.decode_input(payload.inputs[0])
        rows = self.network.infer(torch.stack([self.network.decode(picture) for picture in pictures]))
        outputs = [
            ResponseOutput(name=name, shape=[len(rows), 1], datatype="FP64", data=[row[name] for row in rows])
            for name in rows[0]
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
