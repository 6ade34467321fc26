"""An unpacked archive's manifest and configuration: what is taken, what is refused with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import ManifestError
from app.handlers.handler_archive import LIMIT_KEYS, HandlerArchive, PoolLimits, is_archive, read_archive

MODEL = {"modelName": "m", "modelVersion": "1.0", "handler": "handler.py"}


def write(folder: Path, model: dict[str, Any], runtime: str = "python") -> Path:
    (folder / "MAR-INF").mkdir(exist_ok=True)
    (folder / "MAR-INF/MANIFEST.json").write_text(json.dumps({"runtime": runtime, "model": model}))
    return folder


@pytest.mark.parametrize(
    ("handler", "module", "function"),
    [
        ("image_classifier", "image_classifier", "handle"),
        ("handler.py", "handler", "handle"),
        ("handler.py:entry", "handler", "entry"),
        ("handler:entry", "handler", "entry"),
    ],
)
def test_handler_is_a_name_a_file_or_a_function_of_one(
    tmp_path: Path, handler: str, module: str, function: str
) -> None:
    archive = read_archive(write(tmp_path, {**MODEL, "handler": handler}), "n", "2")
    assert (archive.module, archive.function, archive.name, archive.version) == (module, function, "n", "2")


@pytest.mark.parametrize(
    "change",
    [
        {"modelName": ""},
        {"modelVersion": None},
        {"handler": "../../evil.py"},
        {"handler": ""},
        {"handler": "os.path:join"},
        {"serializedFile": "../weights.pt"},
        {"modelFile": "/model.py"},
        {"configFile": "a/b.yaml"},
        {"configFile": "absent.yaml"},
        {"configFile": 5},
        {"configFile": ["c.yaml"]},
        {"modelFile": "absent.py"},
        {"serializedFile": "absent.pt"},
        {"modelName": 1},
        {"modelName": ["m"]},
    ],
)
def test_manifest_that_reaches_outside_or_lacks_something_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        read_archive(write(tmp_path, {**MODEL, **change}), "m", "1.0")


def test_other_runtimes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="runtime"):
        read_archive(write(tmp_path, MODEL, "LSP"), "m", "1.0")


def test_configuration_sets_processes_and_batches_and_stays_readable_for_the_handler(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("minWorkers: 2\nbatchSize: 4\nmaxBatchDelay: 50\nhandler:\n  threshold: 0.4\n")
    archive = read_archive(write(tmp_path, {**MODEL, "configFile": "c.yaml"}), "m", "1.0")
    assert archive.limits == PoolLimits(min_workers=2, max_workers=2, batch_size=4, max_batch_delay_ms=50)
    assert archive.config["handler"] == {"threshold": 0.4}
    assert HandlerArchive.from_json(json.loads(json.dumps(archive.to_json()))) == archive


KEYS = [*LIMIT_KEYS.values()]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["2000000000", "-1", "1e9", "true", ".nan", ".inf", "1.5", "'NaN'", "9" * 65, "[1]"])
def test_number_of_the_configuration_out_of_bounds_is_refused_with_its_key(
    tmp_path: Path, key: str, value: str
) -> None:
    (tmp_path / "c.yaml").write_text(f"{key}: {value}\n")
    with pytest.raises(
        ManifestError, match=rf"^model-config\.yaml: {key}=.+ is not allowed: it must be a whole number "
    ):
        read_archive(write(tmp_path, {**MODEL, "configFile": "c.yaml"}), "m", "1.0")


@pytest.mark.parametrize("text", ["1" + "0" * 400, "1" + "0" * 5000, "0x1" + "0" * 5000], ids=len)
def test_number_of_hundreds_of_digits_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(f"minWorkers: {text}\n")
    with pytest.raises(ManifestError):
        read_archive(write(tmp_path, {**MODEL, "configFile": "c.yaml"}), "m", "1.0")


def test_numbers_of_torchserves_guides_are_taken(tmp_path: Path) -> None:
    lines = ["minWorkers: 1", "maxWorkers: 4", "batchSize: 128", "maxBatchDelay: 10000", "responseTimeout: 1200"]
    (tmp_path / "c.yaml").write_text("\n".join([*lines, "startupTimeout: 3600", "jobQueueSize: 100", ""]))
    archive = read_archive(write(tmp_path, {**MODEL, "configFile": "c.yaml"}), "m", "1.0")
    assert archive.limits == PoolLimits(1, 4, 128, 10_000, 1200, 3600, 100)


@pytest.mark.parametrize("change", [{"serializedFile": "a" * 300}, {"handler": "a" * 300 + ".py"}])
def test_name_that_is_too_long_for_a_file_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="must be"):
        read_archive(write(tmp_path, {**MODEL, **change}), "m", "1.0")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['true']",
        "a: &a [x, x]\nb: [*a, *a]",
        "a: [" * 5000,
        "[" * 20_000,
        "- a\n- list",
        "minWorkers: many",
        "minWorkers: -1",
        "batchSize: 0",
        "a: 2026-11-22",
        "a: {" + ", ".join(f"k{index}: 1" for index in range(6000)) + "}",
        "a: \x00",
    ],
)
def test_hostile_or_malformed_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ManifestError):
        read_archive(write(tmp_path, {**MODEL, "configFile": "c.yaml"}), "m", "1.0")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"model": []}'])
def test_malformed_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, MODEL)
    (tmp_path / "MAR-INF/MANIFEST.json").write_text(text)
    assert is_archive(tmp_path)
    with pytest.raises(ManifestError):
        read_archive(tmp_path, "m", "1.0")
