"""From a framework's network to an OpenVINO IR, and on to one in INT8 by NNCF's post-training quantization.

OpenVINO is imported when it is first used, so that a command that compiles nothing starts without it.
"""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.arrays import InputBatch
from app.errors import FrameworkMissingError
from app.manifest.model_specs import FRAMEWORKS


def require_framework(framework: str) -> None:
    """Raise `FrameworkMissingError` with what to install, unless the framework is there."""
    require_package(FRAMEWORKS[framework].package)


def require_package(package: str) -> None:
    """Raise `FrameworkMissingError` with what to install, unless the package is there."""
    if importlib.util.find_spec(package) is None:
        raise FrameworkMissingError(
            f"{package} is not installed here, and the model is not compiled; run 'pip install -r requirements.txt'"
        )


def require_nncf() -> None:
    """Raise `FrameworkMissingError` with what to install, unless NNCF is there."""
    if importlib.util.find_spec("nncf") is None:
        raise FrameworkMissingError("nncf is not installed here; run 'pip install -r requirements_int8.txt'")


def save_ir(model: Any, path: Path) -> None:
    """Write an `openvino.Model` to `path`, and its weights beside it, in the precision that they have."""
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)


def converter_version() -> str:
    """Return name and version of the converter."""
    import openvino

    return f"openvino {openvino.__version__}"


def quantize_ir(source: Path, target: Path, pictures: Sequence[Path], read: Callable[[Path], InputBatch]) -> None:
    """Quantize the IR `source`, which takes pixels, and write it to `target` and beside it.

    Args:
        source: `model.xml` in float32.
        target: `model.xml` in INT8.
        pictures: what the ranges of the activations are measured on; read one by one, perhaps more than once.
        read: makes a picture uint8, [1, H, W, 3].
    """
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    # The first convolution sees the pixels themselves. In INT8 it alone made a quarter of all the noise in the
    # probabilities of an EfficientNet-Lite0, and it is cheap.
    first = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"][:1]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(pictures, read),
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(names=first),
        # Weights of 7 bits. With all 8, a processor without VNNI overflows, and moved probabilities by up to 0.21;
        # with 7 it gave the same scores to the last bit (benchmarks/README.md).
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    )
    save_ir(quantized, target)


def quantizer_version() -> str:
    """Return name and version of the quantizer."""
    import nncf

    return f"nncf {nncf.__version__}"
