"""What ONNX Runtime cannot load, or loads and no manifest describes, is refused in a sentence of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engines.base import build_engine
from app.engines.reference_engine import find_obstacle
from app.errors import IntegrityError
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import Artifact, InputSpec, OutputSpec
from app.repository.model_content import list_artifact

onnx = pytest.importorskip("onnx")

pytestmark = pytest.mark.slow
SHAPE = ["n", 3, 8, 8]


def write(
    path: Path, *last: Any, output: Any = None, domains: tuple[str, ...] = (), opset: int = 13, **more: Any
) -> None:
    """The means of the channels, a layer of two scores, and what follows on `y`."""
    helper = onnx.helper
    weights = onnx.numpy_helper.from_array(np.eye(3, 2, dtype=np.float32), "weights")
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["y"]),
    ]
    picture = helper.make_tensor_value_info("x", 1, SHAPE)
    output = output or helper.make_tensor_value_info("y", 1, ["n", 2])
    graph = helper.make_graph([*nodes, *last], "g", [picture], [output], [weights])
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=more.pop("ir", 8))
    onnx.save(model, path, **more)


def write_zip_map(path: Path) -> None:
    helper = onnx.helper
    last = helper.make_node("ZipMap", ["y"], ["table"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    inner = helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, None))
    output = helper.make_value_info("table", helper.make_sequence_type_proto(inner))
    write(path, last, output=output, domains=("ai.onnx.ml",))


def write_unknown_operation(path: Path) -> None:
    last = onnx.helper.make_node("Secret", ["y"], ["z"], domain="my.own")
    write(path, last, output=onnx.helper.make_tensor_value_info("z", 1, ["n", 2]), domains=("my.own",))


def write_weights_beside(path: Path, name: str = "model.onnx_data") -> None:
    write(path, save_as_external_data=True, location=name, size_threshold=0)


def write_without_weights(path: Path) -> None:
    write_weights_beside(path, "weights.bin")
    path.with_name("weights.bin").unlink()


def write_cut_short(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:90])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a table of scores": (
        write_zip_map,
        r"returns seq\(map\(int64,tensor\(float\)\)\).*export it so \(skl2onnx: options=",
    ),
    "an operation of somebody's own": (
        write_unknown_operation,
        r"cannot load model\.onnx: my\.own:Secret.* is not a reg",
    ),
    "a newer version": (lambda path: write(path, ir=30), r"cannot load model\.onnx: Unsupported model IR version: 30"),
    "newer operations": (lambda path: write(path, opset=99), r"cannot load model\.onnx: ONNX Runtime only .* Opset 99"),
    "no weights beside": (
        write_without_weights,
        r"keeps its weights in weights\.bin, .*under the name model\.onnx\.data or model\.onnx_data alone; bring both",
    ),
    "a cut file": (
        write_cut_short,
        r"cannot load model\.onnx: Protobuf parsing failed\.$",
    ),
}


def build(folder: Path) -> Any:
    manifest = ModelManifest(
        *("tiny-onnx", "1.0", "", "", "onnx", "compiled", "", ""),
        Artifact("model.onnx", "", None),
        InputSpec(8, 8, "bilinear", (0, 0, 0), (255, 255, 255), None),
        OutputSpec(("a", "b"), "softmax", "b", 0.5, "none"),
        {},
    )
    return build_engine("onnx", folder, manifest, 1)


@pytest.mark.parametrize("name", REFUSED)
def test_model_that_cannot_be_used_is_refused_without_the_servers_own_paths(tmp_path: Path, name: str) -> None:
    write_model, reason = REFUSED[name]
    write_model(tmp_path / "model.onnx")
    with pytest.raises(IntegrityError, match=reason) as failure:
        build(tmp_path).load()
    assert str(tmp_path) not in failure.value.message
    assert "onnxruntime_src" not in failure.value.message


def test_weights_beside_may_have_the_name_that_optimum_gives_them(tmp_path: Path) -> None:
    write_weights_beside(tmp_path / "model.onnx")
    build(tmp_path).load()
    members = list_artifact(tmp_path / "model.onnx", "onnx")
    assert [path.name for path in members] == ["model.onnx", "model.onnx_data"]


@pytest.mark.parametrize(
    "text, reason",
    [
        (
            "Check 'false' failed at src/report.cpp:151:\nModel wasn't fully converted.\nSummary:\n"
            "-- No conversion rule found for operations: quantized::linear_dynamic\n-- Conversion is failed\n",
            "it does not know quantized::linear_dynamic; export the network without, in float32 if it is quantized",
        ),
        ("Check failed at src/a.cpp:1:\nshapes differ\n\n", "shapes differ"),
        ("", "it does not say why"),
    ],
    ids=["an unknown operation", "another reason", "no reason"],
)
def test_reason_of_openvino_is_told_in_a_line(text: str, reason: str) -> None:
    assert find_obstacle(text) == reason
