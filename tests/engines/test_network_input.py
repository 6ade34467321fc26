"""What stands before a network gives the same in numpy and in OpenVINO, in every layout and order of channels."""

import numpy as np
import openvino
import pytest
from openvino import opset13

from app.engines.network_input import NCHW, NHWC, find_layout, normalize, shape_of, take_pixels
from app.manifest.model_specs import InputSpec

SPEC = InputSpec(40, 24, "bilinear", (0, 0, 0), (1, 1, 1), None)
PIXELS = np.random.default_rng(2).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
MEAN, STD = (103.939, 116.779, 123.68), (1.0, 2.0, 4.0)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_network_sees_the_channels_in_its_own_order(layout: str, order: str) -> None:
    spec = InputSpec(6, 4, "bilinear", MEAN, STD, None, channel_order=order)
    seen = opset13.parameter(shape_of(-1, spec, layout), np.float32)
    model = openvino.Model([opset13.result(opset13.relu(opset13.abs(seen)))], [seen])
    compiled = openvino.compile_model(take_pixels(model, layout, spec), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ours = normalize(PIXELS, spec, layout)
    np.testing.assert_allclose(compiled(PIXELS)[0], np.abs(ours), atol=1e-4)
    first = ours[:, 0] if layout == NCHW else ours[..., 0]
    channel = PIXELS[..., 2 if order == "BGR" else 0]
    np.testing.assert_allclose(first, (channel - np.float32(MEAN[0])) / np.float32(STD[0]), atol=1e-4)


@pytest.mark.parametrize(
    "shape, layout",
    [
        ([None, None, None, 3], NHWC),
        ([None, 3, None, None], NCHW),
        ([1, 24, None, 3], NHWC),
        ([None, None, None, None], NCHW),
    ],
    ids=str,
)
@pytest.mark.parametrize("spec", [None, SPEC], ids=["any size", "one size"])
def test_axis_of_three_is_that_of_the_channels(shape: list[int | None], layout: str, spec: InputSpec | None) -> None:
    assert find_layout("a", shape, spec, NCHW, NHWC) == layout
