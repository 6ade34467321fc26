"""What TorchServe runs; `torch-model-archiver` packs this file with the model's."""

from pathlib import Path

import torch
from eager_model import EagerModel

from ts.torch_handler.base_handler import BaseHandler


class EagerHandler(BaseHandler):
    """The four steps that TorchServe calls."""

    def initialize(self, context):
        """Load the weights."""
        self.model = EagerModel(Path(context.system_properties["model_dir"]))
        self.initialized = True

    def preprocess(self, data):
        """Decode a batch of requests."""
        return torch.stack([self.model.decode(row.get("data") or row.get("body")) for row in data])

    def inference(self, data):
        """Run the network."""
        return self.model.infer(data)

    def postprocess(self, data):
        """Answer what the network said."""
        return data
