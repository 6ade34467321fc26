"""Handlers of pictures."""

import io
from abc import ABC
from typing import Any

import torch
from PIL import Image

from app.base64_fields import decode_base64
from app.handlers.handler_answers import NO_CAPTUM
from app.pipeline.decoding.samples import SampleKind, to_rgb
from ts.torch_handler.base_handler import UNAVAILABLE, BaseHandler
from ts.utils.util import PredictionException

DEEP = SampleKind(bits=16)
"""Deep grey is scaled as if it had 16 bits, also where its file has 12."""


def read_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture of any mode to RGB: the first step of the default processing.

    Modes are converted as for our own models. The picture is not turned, and its colour profile is not applied.
    """
    return to_rgb(image, DEEP)[0]


class VisionHandler(BaseHandler, ABC):
    """Opens pictures and hands each to `image_processing`, which a handler defines: a picture in, a tensor out.

    A picture comes in the mode of its file, as in TorchServe: a handler's own processing may be for grey ones. The
    default processing makes it RGB first, where TorchServe's fails on all other modes.
    """

    image_processing: Any = None
    ig: Any = None

    def initialize(self, context: Any) -> None:
        """Load the model; prepare explanations where captum is installed."""
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels", True):
            Image.MAX_IMAGE_PIXELS = None
        try:
            from captum.attr import IntegratedGradients
        except ImportError:
            return
        self.ig = IntegratedGradients(self.model)

    def preprocess(self, data: Any) -> Any:
        """Decode the requests' pictures; a base64 string is one too, and a list is taken as numbers."""
        tensors = [self._to_tensor(row.get("data") or row.get("body")) for row in data]
        return torch.stack(tensors).to(self.device)

    def _to_tensor(self, value: Any) -> torch.Tensor:
        if isinstance(value, str):
            value = decode_base64(value, "The text of a request")
        if not isinstance(value, (bytes, bytearray)):
            return torch.FloatTensor(value)
        tensor: torch.Tensor = self.image_processing(Image.open(io.BytesIO(value)))
        return tensor

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> Any:  # noqa: ARG002  # TorchServe's
        """Explain a prediction with captum's integrated gradients."""
        if self.ig is None:
            raise PredictionException(NO_CAPTUM, UNAVAILABLE)
        return self.ig.attribute(tensor_data, target=target, n_steps=15).tolist()
