"""Handlers of pictures."""

import base64
import io
from abc import ABC
from typing import Any

import torch
from PIL import Image

from app.handlers.worker.handler_batch import NO_CAPTUM
from app.pipeline.decoding.samples import composite_over_white, scale_to_8_bits
from ts.torch_handler.base_handler import UNAVAILABLE, BaseHandler
from ts.utils.util import PredictionException

SIXTEEN_BITS = 65_535


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture of any mode to RGB by the rules of our own models; TorchServe fails on all but RGB.

    Transparency is laid over white, 16-bit grey is scaled, not cut.
    """
    if image.mode.startswith("I;16"):
        return scale_to_8_bits(image, SIXTEEN_BITS, white_is_zero=False)
    if image.has_transparency_data:
        return composite_over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


class VisionHandler(BaseHandler, ABC):
    """Decodes pictures and hands each to `image_processing`, which a handler defines: a picture in, a tensor out."""

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
            value = base64.b64decode(value)
        if not isinstance(value, (bytes, bytearray)):
            return torch.FloatTensor(value)
        with Image.open(io.BytesIO(value)) as image:
            tensor: torch.Tensor = self.image_processing(to_rgb(image))
        return tensor

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> Any:  # noqa: ARG002  # TorchServe's
        """Explain a prediction with captum's integrated gradients."""
        if self.ig is None:
            raise PredictionException(NO_CAPTUM, UNAVAILABLE)
        return self.ig.attribute(tensor_data, target=target, n_steps=15).tolist()
