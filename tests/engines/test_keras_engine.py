"""What a `.keras` file may hold; told by its config, before Keras sees it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.errors import IntegrityError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SHIPPED = PROJECT_ROOT / "models/isic-classification/1.0/model.keras"


def write_archive(path: Path, config: Any, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("metadata.json", "{}")
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def layer(module: str | None, name: str, config: Any = None) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config or {}, "registered_name": None}


def test_shipped_model_is_allowed() -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    read_archive(SHIPPED)


@pytest.mark.parametrize(
    "inner",
    [
        layer("keras.layers", "Lambda"),
        layer("keras.layers", "TFSMLayer"),
        layer("keras.layers", "TorchModuleWrapper"),
        layer("keras.layers", "StringLookup"),
        layer("builtins", "function", "eval"),
        layer("os", "system"),
        layer(None, "Lambda"),
        layer("keras.src.models.functional", "Lambda"),
        layer("keras.layers.evil", "Conv2D"),
        layer("evil", "Conv2D"),
        layer("keras.losses", "MeanSquaredError"),
        {"class_name": "__lambda__", "config": {"value": "code"}},
    ],
    ids=lambda inner: f"{inner.get('module')}.{inner['class_name']}",
)
def test_class_outside_the_lists_is_refused(tmp_path: Path, inner: dict[str, Any]) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    config = layer("keras", "Sequential", {"layers": [layer("keras.layers", "Dense", {"nested": [inner]})]})
    with pytest.raises(IntegrityError, match="not allowed"):
        read_archive(write_archive(tmp_path / "model.keras", config))


def test_archive_with_other_members_is_refused(tmp_path: Path) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    path = write_archive(tmp_path / "model.keras", {}, **{"assets/vocabulary.txt": b""})
    with pytest.raises(IntegrityError, match="holds more than"):
        read_archive(path)


@pytest.mark.parametrize("config", ["no json", "[" * 100_000, json.dumps("x" * 9_000_000)])
def test_config_that_is_no_config_is_refused(tmp_path: Path, config: str) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    with pytest.raises(IntegrityError):
        read_archive(write_archive(tmp_path / "model.keras", config))


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    from app.engines.tensorflow.keras_engine import read_archive

    path = tmp_path / "model.keras"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(IntegrityError, match=r"not a \.keras file"):
        read_archive(path)
