"""The handler `image_segmenter`."""

from typing import Any

import torch
from torchvision import transforms

from ts.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """Answers each picture with the most probable class of every pixel and its probability, [H][W][2]."""

    image_processing = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )

    def postprocess(self, data: Any) -> list[Any]:
        """Turn the model's `out`, logits [N, classes, H, W], into classes and probabilities."""
        probabilities, classes = torch.nn.functional.softmax(data["out"], dim=1).max(1, keepdim=True)
        pairs = torch.cat((classes.type(probabilities.dtype), probabilities), dim=1)
        return list(pairs.permute(0, 2, 3, 1).tolist())
