"""The handler `image_segmenter`."""

from typing import Any

import torch

from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """Answers each picture with the most probable class of every pixel and its probability, [H][W][2]."""

    image_processing = ImageClassifier.image_processing

    def postprocess(self, data: Any) -> list[Any]:
        """Turn the model's `out`, logits [N, classes, H, W], into classes and probabilities."""
        probabilities, classes = torch.nn.functional.softmax(data["out"], dim=1).max(1, keepdim=True)
        pairs = torch.cat((classes.type(probabilities.dtype), probabilities), dim=1)
        return list(pairs.permute(0, 2, 3, 1).tolist())
