"""PyTorch architectures a model folder may name: the code behind `architecture = "…"` in `model.toml`.

A `.safetensors` file holds weights alone; what they are the weights *of* comes from this list, never from the
model folder, so that loading a model cannot run code which came with it.
"""

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from app.engines.pytorch.torchvision_operators import declare_operators


class StageConfig(NamedTuple):
    """One stage of EfficientNet-B0, before scaling (Tan and Le 2019, arXiv:1905.11946, table 1)."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int


EFFICIENTNET_STAGES = (
    StageConfig(1, 16, 1, 1, 3),
    StageConfig(6, 24, 2, 2, 3),
    StageConfig(6, 40, 2, 2, 5),
    StageConfig(6, 80, 3, 2, 3),
    StageConfig(6, 112, 3, 1, 5),
    StageConfig(6, 192, 4, 2, 5),
    StageConfig(6, 320, 1, 1, 3),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
BATCH_NORM_EPS = 1e-3


class SamePadConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`: the odd pixel goes right and below.

    The ImageNet weights of EfficientNet-Lite were trained with it, and Keras pads so too; PyTorch's own symmetric
    padding shifts every stride-2 layer by half a pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x`, float [N, C, H, W], to ceil(H / stride) by ceil(W / stride)."""
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Build a bias-free convolution; at stride 1 plain symmetric padding is the same as `SAME` and faster."""
    if stride == 1:
        return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return SamePadConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


def normalization(channels: int) -> nn.BatchNorm2d:
    """Build the batch normalization with EfficientNet's constants."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=0.01)


class InvertedBottleneck(nn.Module):
    """MBConv without squeeze-and-excitation: expand 1x1, depthwise kxk, project 1x1, and the input added back."""

    def __init__(self, inputs: int, stage: StageConfig, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * stage.expansion
        layers: list[nn.Module] = []
        if stage.expansion != 1:
            layers += [convolution(inputs, hidden, 1), normalization(hidden), nn.ReLU6()]
        layers += [convolution(hidden, hidden, stage.kernel, stride, groups=hidden), normalization(hidden), nn.ReLU6()]
        layers += [convolution(hidden, outputs, 1), normalization(outputs)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite: EfficientNet without squeeze-and-excitation, ReLU6 throughout, stem and head never scaled.

    `width` multiplies the channels of the stages, `depth` their repeats; the first and last stage repeat as they are.
    Source: tensorflow/tpu, models/official/efficientnet/lite.
    """

    def __init__(self, width: float, depth: float, classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3, STEM_CHANNELS, 3, 2), normalization(STEM_CHANNELS), nn.ReLU6())
        blocks: list[nn.Module] = []
        inputs = STEM_CHANNELS
        for index, stage in enumerate(EFFICIENTNET_STAGES):
            outputs = scale_channels(stage.channels, width)
            fixed = index in (0, len(EFFICIENTNET_STAGES) - 1)
            for repeat in range(stage.repeats if fixed else math.ceil(stage.repeats * depth)):
                blocks.append(InvertedBottleneck(inputs, stage, outputs, 1 if repeat else stage.stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(convolution(inputs, HEAD_CHANNELS, 1), normalization(HEAD_CHANNELS), nn.ReLU6())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(HEAD_CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalized images, float32 [N, 3, H, W], to logits, float32 [N, classes]."""
        features = self.head(self.blocks(self.stem(x))).mean((2, 3))
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


def scale_channels(channels: int, width: float) -> int:
    """Scale a channel count and round it to a multiple of 8, never more than 10 % down."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def import_torchvision() -> ModuleType:
    """Import torchvision, also beside a CPU build of PyTorch."""
    declare_operators()
    return import_module("torchvision")


def build_from_torchvision(name: str, classes: int) -> nn.Module:
    """Build one of torchvision's classifiers, without weights; nothing is downloaded."""
    network: nn.Module = import_torchvision().models.get_model(name, weights=None, num_classes=classes)
    return network


TORCHVISION = ("densenet121", "densenet161", "efficientnet_b0", "mobilenet_v3_small", "resnet18", "resnet50")
ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    **{name: partial(build_from_torchvision, name) for name in TORCHVISION},
    "efficientnet_lite0": lambda classes: EfficientNetLite(1.0, 1.0, classes),
    "efficientnet_lite1": lambda classes: EfficientNetLite(1.0, 1.1, classes),
    "efficientnet_lite2": lambda classes: EfficientNetLite(1.1, 1.2, classes),
}
