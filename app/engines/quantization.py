"""From a compiled model in float32 to one in INT8, by NNCF's post-training quantization."""

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from app.arrays import InputBatch
from app.engines.conversion import save_ir
from app.errors import FrameworkMissingError


def require_nncf() -> None:
    """Raise `FrameworkMissingError` with what to install, unless NNCF is there."""
    if importlib.util.find_spec("nncf") is None:
        raise FrameworkMissingError("nncf is not installed here; run 'pip install -r requirements_int8.txt'")


def quantize_ir(source: Path, target: Path, pictures: Sequence[Path], read: Callable[[Path], InputBatch]) -> None:
    """Quantize the IR `source` and write it to `target` and beside it.

    Args:
        source: an IR that takes pixels, in float32.
        target: where `model.xml` shall stand.
        pictures: what the ranges of the activations are measured on; read one by one, perhaps more than once.
        read: makes a picture uint8, [1, H, W, 3].
    """
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    nncf.set_log_level(logging.ERROR)
    quantized = nncf.quantize(
        openvino.Core().read_model(source),
        nncf.Dataset(pictures, read),
        subset_size=len(pictures),
        # Weights of 7 bits. With all 8, a processor without VNNI overflows, and moved probabilities by up to 0.21;
        # with 7 it gave the same scores to the last bit (benchmarks/README.md).
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    )
    save_ir(quantized, target)


def quantizer_version() -> str:
    """Name and version of the quantizer."""
    import nncf

    return f"nncf {nncf.__version__}"
