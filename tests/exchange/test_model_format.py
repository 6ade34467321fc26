"""A file is told by its content, whatever it is called, and no content stops the telling."""

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import ModelFolderError, ModelFormatError
from app.exchange.admission import suggest_lines
from app.exchange.model_format import ModelFormat, Trust, identify
from app.exchange.model_importer import add_model, propose
from tests.exchange import hostile

PCAM, ISIC = hostile.PCAM, hostile.ISIC
MAGICS = [
    b"PK\x03\x04",
    b"\x1f\x8b\x08",
    b"\x89HDF\r\n\x1a\n",
    b"\x80\x02",
    struct.pack("<Q", 20) + b"{",
    b"\x08\x01\x12",
]


@pytest.mark.parametrize(
    "source, expected",
    [
        (PCAM / "model.safetensors", ModelFormat.SAFETENSORS),
        (ISIC / "model.keras", ModelFormat.KERAS),
        (PCAM / "compiled/model.xml", ModelFormat.OPENVINO),
        (PCAM / "compiled/model.bin", ModelFormat.UNKNOWN),
        (PCAM / "model.toml", ModelFormat.UNKNOWN),
        (PCAM / "examples/synthetic-normal.png", ModelFormat.UNKNOWN),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else None,
)
def test_name_does_not_matter(tmp_path: Path, source: Path, expected: ModelFormat) -> None:
    for name in ("model.pkl", "model.keras", "model"):
        shutil.copy(source, tmp_path / name)
        assert identify(tmp_path / name) is expected


@pytest.mark.parametrize(
    "generator, expected, trust",
    [
        (hostile.raw_pickle(0), ModelFormat.PICKLE, Trust.NEVER),
        (hostile.raw_pickle(4), ModelFormat.PICKLE, Trust.NEVER),
        (hostile.pickle_zip, ModelFormat.TORCH_PICKLE, Trust.NEVER),
        (hostile.old_tar_pickle, ModelFormat.TAR, Trust.NEVER),
        (hostile.keras_behind_png, ModelFormat.UNKNOWN, Trust.NEVER),
        (hostile.torchscript, ModelFormat.TORCHSCRIPT, Trust.PROGRAM),
        (hostile.exported_program, ModelFormat.PT2, Trust.PROGRAM),
        (hostile.handler_archive, ModelFormat.MAR, Trust.PROGRAM),
        (hostile.onnx, ModelFormat.ONNX, Trust.PROGRAM),
        (hostile.saved_model, ModelFormat.SAVED_MODEL, Trust.PROGRAM),
        (hostile.hdf5_lambda, ModelFormat.HDF5, Trust.DATA),
        (hostile.model_folder, ModelFormat.FOLDER, Trust.DATA),
        (hostile.tar_name("a.md"), ModelFormat.PACKED, Trust.DATA),
    ],
    ids=lambda value: value.name if isinstance(value, ModelFormat) else None,
)
def test_kind_and_trust(tmp_path: Path, generator: Callable[[Path], Path], expected: ModelFormat, trust: Trust) -> None:
    found = identify(generator(tmp_path))
    assert (found, found.trust) == (expected, trust)
    assert not list(tmp_path.glob(hostile.CANARY))


def test_file_of_two_kinds_is_the_more_dangerous_one(tmp_path: Path) -> None:
    members = (("m/data.pkl", b"\x80\x02}."), ("m/constants.pkl", b"\x80\x02)."))
    path = hostile.write_zip(tmp_path / "a", *members)
    assert identify(path) is ModelFormat.TORCHSCRIPT
    path = hostile.keras_file(tmp_path, {}, b"", ("m/data.pkl", pickle.dumps(Path(), 2)))
    assert identify(path) is ModelFormat.TORCH_PICKLE
    path = hostile.keras_file(tmp_path, {}, b"", ("code.py", b""))
    assert identify(path) is ModelFormat.ARCHIVE


@pytest.mark.parametrize(
    "content, reason",
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "pointer of Git LFS.*: fetch the file with git lfs",
        ),
        (
            b"\n<!DOCTYPE html><html>404</html>",
            "a web page, and not a model, which is not taken: download the file itself",
        ),
        (b"\x1c\0\0\0TFL3\0\0\0\0", "a TensorFlow Lite model, which is not taken: add the Keras model"),
        (
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
            r"read it with torch\.load\(file, weights_only",
        ),
        (b"GGUF\3\0\0\0", "of no known format, or damaged; taken are safetensors, state dicts"),
        (b"", "is empty; taken are safetensors"),
        (b"\x08\x01\x12\x02", "is a part of a SavedModel: add the folder that it lies in"),
    ],
    ids=["Git LFS", "web page", "TensorFlow Lite", "old PyTorch", "foreign", "empty", "part of a SavedModel"],
)
@pytest.mark.parametrize("manifest", [None, PCAM / "model.toml"], ids=["alone", "with a manifest"])
def test_what_is_no_model_file_is_named_with_what_to_do(
    tmp_path: Path, content: bytes, reason: str, manifest: Path | None
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    (tmp_path / "models").mkdir()
    settings = Settings(models=tmp_path / "models", instance=tmp_path / "instance")
    with pytest.raises(ModelFolderError, match=reason):
        add_model(tmp_path / "model.onnx", settings, manifest)
    with pytest.raises(ModelFolderError, match=reason):
        propose(tmp_path / "model.onnx", settings)


def test_archive_of_a_model_file_is_refused_beside_a_manifest(tmp_path: Path) -> None:
    source = hostile.write_zip(tmp_path / "model.zip", ("model.onnx", b"\x08\x08\x12"))
    (tmp_path / "models").mkdir()
    settings = Settings(models=tmp_path / "models", instance=tmp_path / "instance")
    with pytest.raises(ModelFormatError, match=r"^model\.zip is an archive .*: unpack it, and add what is in it$"):
        add_model(source, settings, PCAM / "model.toml")
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(
        ModelFormatError, match=r"^checkpoint is a folder without model\.toml or .* or saved_model\.pb$"
    ):
        add_model(tmp_path / "checkpoint", settings, PCAM / "model.toml")


@pytest.mark.parametrize(
    "file, framework, kind, lines",
    [
        ("a.pt", "torch", ModelFormat.TORCHSCRIPT, 'say framework = "torchscript"; leave architecture out'),
        ("a.pt2", "torch_export", ModelFormat.TORCHSCRIPT, 'say framework = "torchscript" and file = "a.pt"'),
        ("a.pt", "torchscript", ModelFormat.STATE_DICT, 'say framework = "torch"; name the architecture'),
        ("a.keras", "keras", ModelFormat.HDF5, 'say file = "a.h5"'),
        ("a.pt", "torch", ModelFormat.SAFETENSORS, 'say file = "a.safetensors"'),
        ("a.onnx", "onnx", ModelFormat.KERAS, 'say framework = "keras" and file = "a.keras"'),
    ],
)
def test_artifact_of_another_format_is_refused_with_the_lines_to_change(
    file: str, framework: str, kind: ModelFormat, lines: str
) -> None:
    assert suggest_lines(Path(file), framework, kind) == lines


@pytest.mark.parametrize(
    "text", [b"\x80\x02c__builtin__\neval\n.", b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"\x80\x02(i__main__\nA\n."]
)
def test_pickle_that_refers_to_more_than_tensors_is_no_state_dict(tmp_path: Path, text: bytes) -> None:
    assert identify(hostile.torch_zip(tmp_path, text)) is ModelFormat.TORCH_PICKLE
    assert identify(hostile.torch_zip(tmp_path, b"\x80\x02}.")) is ModelFormat.STATE_DICT


@pytest.mark.parametrize("length", [384, 640, 896, 1152, 1408])
def test_safetensors_whose_length_begins_like_a_pickle_is_safetensors(tmp_path: Path, length: int) -> None:
    header = {"a": hostile.tensor([1], 0, 4), "__metadata__": {"pad": ""}}
    header["__metadata__"]["pad"] = "x" * (length - len(json.dumps(header)))
    path = hostile.safetensors(tmp_path, header, b"1234")
    assert path.read_bytes()[:1] == b"\x80"
    assert identify(path) is ModelFormat.SAFETENSORS


def test_model_file_of_a_saved_model_alone_is_named(tmp_path: Path) -> None:
    assert identify(hostile.saved_model(tmp_path) / "saved_model.pb") is ModelFormat.SAVED_MODEL


@examples(max_examples=300, deadline=None)
@given(head=st.sampled_from([b"", *MAGICS]), rest=st.binary(max_size=200))
def test_any_bytes_are_told(tmp_path_factory: pytest.TempPathFactory, head: bytes, rest: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(head + rest)
    assert identify(path) in ModelFormat


@examples(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_zip_is_told(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Runs of extreme bytes put anywhere into a zip64 archive: offsets beyond any file, fields cut short."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("config.json", "model.weights.h5"):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(b"x")
    bad = bytearray(buffer.getvalue())
    at = data.draw(st.integers(0, len(bad) - 1))
    run = data.draw(st.sampled_from([b"\xff", b"\x00", b"\x7f"])) * data.draw(st.integers(1, 12))
    bad[at : at + len(run)] = run
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bad)
    assert identify(path) in (ModelFormat.KERAS, ModelFormat.ARCHIVE, ModelFormat.UNKNOWN)


def test_huge_numbers_in_a_zip_are_no_crash(tmp_path: Path) -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 10, 0, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, (1 << 64) - 1, 1)
    (tmp_path / "a").write_bytes(b"PK\x03\x04" + bytes(100) + locator + end)
    assert identify(tmp_path / "a") is ModelFormat.UNKNOWN


def test_nothing_here_imports_a_framework() -> None:
    source = (PROJECT_ROOT / "app/exchange/model_format.py").read_text()
    for name in ("torch", "keras", "tensorflow", "openvino", "h5py", "pickle.load", "safetensors."):
        assert f"import {name}" not in source
        assert f"from {name}" not in source
