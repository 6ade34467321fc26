"""A native model runs in a process of its own: its death or delay costs one answer, not the server."""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.engines.process_engine import ProcessEngine
from app.errors import InferenceError, ModelProcessError
from app.manifest.model_manifest import read_manifest

PCAM = PROJECT_ROOT / "models/pcam-classification/1.0"
BATCH = np.zeros((1, 96, 96, 3), dtype=np.uint8)


@pytest.fixture
def engine() -> ProcessEngine:
    return ProcessEngine(PCAM, read_manifest(PCAM), Settings(response_timeout_s=20))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_process_of_a_model_gets_no_password(engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCANCER_DATABASE", "OTEL_EXPORTER_OTLP_HEADERS", "PGPASSWORD"):
        monkeypatch.setenv(name, "correct-horse")
    engine.load()
    environment = Path(f"/proc/{engine.process_id}/environ").read_bytes()
    engine.close()
    assert b"PATH=" in environment
    assert b"correct-horse" not in environment


def test_killed_process_costs_one_answer_and_the_next_is_right(engine: ProcessEngine) -> None:
    engine.load()
    expected = engine.infer(BATCH)
    assert engine.process_id is not None
    os.kill(engine.process_id, signal.SIGKILL)
    with pytest.raises(InferenceError):
        engine.infer(BATCH)
    np.testing.assert_array_equal(engine.infer(BATCH), expected)
    engine.close()


def test_stuck_process_is_ended_at_the_timeout() -> None:
    engine = ProcessEngine(PCAM, read_manifest(PCAM), Settings(response_timeout_s=1))
    engine.load()
    stuck = engine.process_id
    assert stuck is not None
    os.kill(stuck, signal.SIGSTOP)
    with pytest.raises(InferenceError):
        engine.infer(BATCH)
    assert not Path(f"/proc/{stuck}").exists()
    engine.close()


def test_reason_of_a_failed_start_reaches_the_parent(tmp_path: Path) -> None:
    folder = tmp_path / "pcam-classification/1.0"
    shutil.copytree(PCAM, folder, ignore=shutil.ignore_patterns("compiled", "examples"))
    (folder / "model.safetensors").write_bytes(b"not weights")
    engine = ProcessEngine(folder, read_manifest(folder), Settings())
    with pytest.raises(ModelProcessError, match=r"model\.safetensors cannot be read as safetensors"):
        engine.load()


def test_process_that_is_started_anew_does_not_answer_by_changed_files(tmp_path: Path) -> None:
    folder, faults = tmp_path / "pcam-classification/1.0", []
    shutil.copytree(PCAM, folder, ignore=shutil.ignore_patterns("compiled", "examples"))
    engine = ProcessEngine(folder, read_manifest(folder), Settings(), lambda error, _: faults.append(str(error)))
    engine.load()
    manifest = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(manifest.replace("std = [128.0", "std = [64.0"))
    assert engine.process_id is not None
    os.kill(engine.process_id, signal.SIGKILL)
    for _ in range(2):  # the first answer is lost with its process
        with pytest.raises(InferenceError):
            engine.infer(BATCH)
    assert engine.process_id is None
    assert ["files were changed since it was loaded" in fault for fault in faults] == [True]
    (folder / "model.toml").write_text(manifest)
    assert engine.infer(BATCH).shape == (1, 2)
    engine.close()


def test_close_ends_the_process(engine: ProcessEngine) -> None:
    engine.load()
    process = engine.process_id
    engine.close()
    assert not Path(f"/proc/{process}").exists()


def test_process_that_ends_while_it_starts_is_told_with_its_signal(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ModelProcessError, match=r"torch did not start: it was killed \(SIGKILL\): most likely out of"):
        engine.load()
    assert engine.process_id is None
