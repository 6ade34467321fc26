"""What stands before a network: for the reference in numpy, for the IR in OpenVINO.

A network that comes whole, as a file, decides for itself which layout its input has and how many pictures it takes.
"""

from collections.abc import Sequence

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor

from app.arrays import InputBatch
from app.errors import IntegrityError
from app.manifest.model_specs import InputSpec

NCHW, NHWC = "NCHW", "NHWC"


def normalize(batch: InputBatch, spec: InputSpec, layout: str) -> NDArray[np.float32]:
    """Turn pixels, uint8 [N, H, W, 3], RGB, into the network's input, float32 in its layout: (pixel - mean) / std."""
    if spec.channel_order == "BGR":
        batch = batch[..., ::-1]
    mean, std = (np.array(values, dtype=np.float32) for values in (spec.mean, spec.std))
    normalized: NDArray[np.float32] = (batch.astype(np.float32) - mean) / std
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2)) if layout == NCHW else normalized


def shape_of(count: int, spec: InputSpec, layout: str) -> list[int]:
    """Return the shape of `count` pictures in a layout; -1 pictures are any number."""
    size = [spec.height_px, spec.width_px]
    return [count, 3, *size] if layout == NCHW else [count, *size, 3]


def find_layout(file: str, shape: Sequence[int | None], spec: InputSpec | None, *layouts: str) -> str:
    """Tell which of the layouts a network's input has, from its shape, in which None is any number.

    Without a `spec` any size is right. Raises `IntegrityError` if it takes no pictures of the manifest's size, or a
    fixed number of several.
    """
    # The layout whose channels the shape says comes first: [N, N, N, 3] is no picture of any channels and width 3.
    for layout in sorted(layouts, key=lambda each: len(shape) == 4 and shape[each.index("C")] != 3):
        wanted = wanted_shape(spec, layout)
        if len(shape) == 4 and all(
            None in pair or pair[0] == pair[1] for pair in zip(shape[1:], wanted[1:], strict=True)
        ):
            if shape[0] not in (None, 1):
                raise IntegrityError(f"{file} takes {shape[0]} pictures at a time; export it for 1, or for any number")
            return layout
    taken = " or ".join(write_shape(wanted_shape(spec, layout)) for layout in layouts)
    change = _suggest_input(shape, layouts)
    raise IntegrityError(f"{file} takes {write_shape(shape)}, and not {taken} as the manifest's [input] says; {change}")


def wanted_shape(spec: InputSpec | None, layout: str) -> list[int | None]:
    """Return the shape that a network's input should have, None where any number is right."""
    size = (None, None) if spec is None else (spec.height_px, spec.width_px)
    return [None, 3, *size] if layout == NCHW else [None, *size, 3]


def _suggest_input(shape: Sequence[int | None], layouts: Sequence[str]) -> str:
    """Say what to change for a network that takes another shape."""
    if len(shape) != 4:
        return "a picture has a height, a width and three channels: export the network with such an input"
    for layout in layouts:
        height_px, width_px, channels = (shape[layout.index(axis)] for axis in "HWC")
        if channels in (None, 3):
            sizes = {"width_px": width_px, "height_px": height_px}
            return (
                f"say {' and '.join(f'{key} = {size}' for key, size in sizes.items() if size is not None)} in [input]"
            )
    channels = shape[layouts[0].index("C")]
    if channels == 1:
        return (
            "the server gives R, G and B, 3 channels: put a layer before the network that makes grey of them, such as "
            "a 1x1 convolution with the weights 0.299, 0.587 and 0.114, and save it again"
        )
    return f"the server gives R, G and B, 3 channels in the layout {' or '.join(layouts)}: export the network for them"


def require_one(file: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Raise `IntegrityError` unless there is one input and one output, each given by name and shape."""
    for title, found, wanted in (("input", inputs, "the picture"), ("output", outputs, "a score for each class")):
        if len(found) != 1:
            named = f": {', '.join(found)}" if found else ""
            raise IntegrityError(
                f"{file} has {len(found)} {title}s{named}; the manifest describes one {title}, {wanted}: export the "
                "network with that one alone"
            )


def describe_tensor(name: str, shape: Sequence[int | None]) -> str:
    """Write the name and shape of an input or output."""
    return f"{name} {write_shape(shape)}"


def write_shape(shape: Sequence[int | None]) -> str:
    """Write a shape: `[N, 32, 32, 3]`; N is any number."""
    return f"[{', '.join('N' if length is None else str(length) for length in shape)}]"


def free_batch(model: openvino.Model, spec: InputSpec, layout: str) -> openvino.Model:
    """Let a network take any number of pictures; one whose computation is fixed to a single one keeps to that."""
    try:
        model.reshape(shape_of(-1, spec, layout))
        if model.output(0).partial_shape[0].is_dynamic:
            return model
    except RuntimeError:
        pass  # the same as an output that stays fixed
    model.reshape(shape_of(1, spec, layout))
    return model


def take_pixels(model: openvino.Model, layout: str, spec: InputSpec) -> openvino.Model:
    """Have a network of normalized float32 in `layout` take pixels: uint8 [N, H, W, 3], RGB, 0 to 255."""
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout(NHWC))
    steps.input().model().set_layout(openvino.Layout(layout))
    prepare = steps.input().preprocess()
    if spec.channel_order == "BGR":
        prepare.reverse_channels()
    prepare.convert_element_type(openvino.Type.f32).mean(list(spec.mean)).scale(list(spec.std))
    return steps.build()
