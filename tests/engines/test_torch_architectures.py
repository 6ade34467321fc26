"""The project's list of PyTorch architectures."""

import re

import numpy as np
import pytest
import torch

from app.config.setting_types import PROJECT_ROOT
from app.engines.pytorch.torch_architectures import ARCHITECTURES, SamePadConv2d, scale_channels


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_gives_one_logit_a_class(name: str) -> None:
    network = ARCHITECTURES[name](3).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_guide_lists_every_architecture() -> None:
    guide = (PROJECT_ROOT / "get_started/add_a_pytorch_model.md").read_text(encoding="utf-8")
    table = guide.partition("<!-- table: architectures -->")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+?_?\w*\d\w*|\w+_small)`", table)) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("size", [6, 9, 12, 13])
@pytest.mark.parametrize("kernel", [3, 5])
def test_stride_2_pads_as_tensorflow_does(size: int, kernel: int) -> None:
    torch.manual_seed(0)
    layer = SamePadConv2d(1, 1, kernel, 2, bias=False)
    image = torch.randn(1, 1, size, size)
    output = -(-size // 2)
    total = max((output - 1) * 2 + kernel - size, 0)
    before = total // 2
    padded = np.pad(image[0, 0].numpy(), (before, total - before))
    weight = layer.weight[0, 0].detach().numpy()
    expected = [
        [(padded[2 * y : 2 * y + kernel, 2 * x : 2 * x + kernel] * weight).sum() for x in range(output)]
        for y in range(output)
    ]
    np.testing.assert_allclose(layer(image)[0, 0].detach().numpy(), expected, atol=1e-5)


def test_parameters_of_lite0_are_those_of_the_paper() -> None:
    # 4.65 million with 1,000 classes: tensorflow/tpu, models/official/efficientnet/lite/README.md
    count = sum(parameter.numel() for parameter in ARCHITECTURES["efficientnet_lite0"](1000).parameters())
    assert count == pytest.approx(4.65e6, rel=0.01)


def test_scaled_channels_are_multiples_of_8_and_at_most_a_tenth_down() -> None:
    for channels in range(8, 400, 8):
        for width in (1.0, 1.1, 1.2):
            scaled = scale_channels(channels, width)
            assert scaled % 8 == 0
            assert scaled >= 0.9 * channels * width


def test_torchvision_operators_are_described_once_and_work() -> None:
    from app.engines.pytorch.torch_architectures import import_torchvision

    assert import_torchvision() is import_torchvision()
