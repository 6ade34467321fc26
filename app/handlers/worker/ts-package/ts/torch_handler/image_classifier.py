"""The handler `image_classifier`."""

from typing import Any

import torch
from torchvision import transforms

from ts.torch_handler.vision_handler import VisionHandler, read_rgb
from ts.utils.util import map_class_to_label


class ImageClassifier(VisionHandler):
    """Answers each picture with the most probable classes and their probabilities."""

    topk = 5
    # The preprocessing that torchvision's ImageNet weights were published with.
    image_processing = transforms.Compose(
        [
            read_rgb,
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )

    def set_max_result_classes(self, topk: int) -> None:
        """Set how many classes are answered."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """Return how many classes are answered."""
        return self.topk

    def postprocess(self, data: Any) -> list[Any]:
        """Turn logits, float [N, classes], into the most probable classes, the first first."""
        probabilities = torch.nn.functional.softmax(data, dim=1)
        values, classes = torch.topk(probabilities, min(self.topk, probabilities.shape[1]), dim=1)
        return list(map_class_to_label(values.tolist(), self.mapping, classes.tolist()))
