"""The handler `object_detector`."""

from typing import Any

import torch
from torchvision import transforms

from ts.torch_handler.vision_handler import VisionHandler, read_rgb


class ObjectDetector(VisionHandler):
    """Answers each picture with the boxes that a detection model of torchvision's kind is sure of."""

    threshold = 0.5
    image_processing = transforms.Compose([read_rgb, transforms.ToTensor()])

    def preprocess(self, data: Any) -> Any:
        """Decode the pictures: one tensor if they are of one size, else a list."""
        tensors = [self._to_tensor(row.get("data") or row.get("body")).to(self.device) for row in data]
        return torch.stack(tensors) if len({tensor.shape for tensor in tensors}) == 1 else tensors

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model with a list of pictures, as torchvision's detection models take them."""
        with torch.inference_mode():
            found = self.model(list(data), *args, **kwargs)
        return found[1] if isinstance(found, tuple) else found  # TorchScript: losses, detections

    def postprocess(self, data: Any) -> list[Any]:
        """Turn each picture's `boxes`, `labels` and `scores` into `{label: [x1, y1, x2, y2], "score": s}`."""
        return [self._name_boxes(found) for found in data]

    def _name_boxes(self, found: Any) -> list[dict[str, Any]]:
        names = self.mapping or {}
        rows = zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
        return [
            {names.get(str(label), str(label)): box, "score": score}
            for box, label, score in rows
            if score >= self.threshold
        ]
