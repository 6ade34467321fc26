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
    """Turn pixels, uint8 [N, H, W, 3], into the network's input, float32 in its layout: (pixel - mean) / std."""
    mean, std = (np.array(values, dtype=np.float32) for values in (spec.mean, spec.std))
    normalized: NDArray[np.float32] = (batch.astype(np.float32) - mean) / std
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2)) if layout == NCHW else normalized


def shape_of(count: int, spec: InputSpec, layout: str) -> list[int]:
    """Return the shape of `count` pictures in a layout; -1 pictures are any number."""
    size = [spec.height_px, spec.width_px]
    return [count, 3, *size] if layout == NCHW else [count, *size, 3]


def find_layout(file: str, shape: Sequence[int | None], spec: InputSpec, *layouts: str) -> str:
    """Tell which of the layouts a network's input has, from its shape, in which None is any number.

    Raises `IntegrityError` if it takes no pictures of the manifest's size, or a fixed number of several.
    """
    for layout in layouts:
        wanted = shape_of(-1, spec, layout)
        if len(shape) == 4 and all(given in (None, asked) for given, asked in zip(shape[1:], wanted[1:], strict=True)):
            if shape[0] not in (None, 1):
                raise IntegrityError(f"{file} takes {shape[0]} pictures at a time; export it for 1, or for any number")
            return layout
    taken = " or ".join(_write_shape([None, *shape_of(-1, spec, layout)[1:]]) for layout in layouts)
    raise IntegrityError(f"{file} takes {_write_shape(shape)}, and not {taken} as the manifest's [input] says")


def _write_shape(shape: Sequence[int | None]) -> str:
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
    """Have a network of normalized float32 in `layout` take pixels: uint8 [N, H, W, 3], 0 to 255."""
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout(NHWC))
    steps.input().model().set_layout(openvino.Layout(layout))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(list(spec.mean)).scale(list(spec.std))
    return steps.build()
