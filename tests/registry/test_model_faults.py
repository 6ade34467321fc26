"""Whatever goes wrong with one model is that model's state, and nobody else's; it comes back when the cause is gone."""

import errno
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openvino
import pytest
from flask import Flask
from flask.testing import FlaskClient
from openvino import opset13

from app import create_app
from app.config.settings import Settings
from app.engines.compiled.openvino_engine import OpenVINOEngine
from app.processes.plain_files import hash_files
from app.registry.model_changes import ModelChanges
from app.registry.model_entry import State
from app.registry.model_follower import ModelFollower
from app.registry.model_registry import ModelRegistry
from app.repository.model_folder import find_model_folders
from app.state.store_access import StoreAccess
from app.state.wanted import WantedState, make_plan
from app.state.worker_reports import read_reports
from tests.conftest import basic, within
from tests.registry.loading import add_version, follow_folders, load_models, settle, work_until

pytestmark = pytest.mark.slow

BROKEN, GOOD = "aaa-broken", "pcam-classification"


def write_model_that_cannot_infer(folder: Path) -> None:
    """Put a compiled model into a folder that OpenVINO loads, and that fails at every batch."""
    picture = opset13.parameter([-1, 96, 96, 3], np.uint8, name="x")
    eight = opset13.reshape(opset13.convert(picture, "f32"), opset13.constant(np.array([8], np.int64)), False)
    scores = opset13.reshape(eight, opset13.constant(np.array([4, 2], np.int64)), False)
    openvino.save_model(openvino.Model([scores], [picture]), folder / "compiled/model.xml", compress_to_fp16=False)
    report = json.loads((folder / "compiled/report.json").read_text())
    report["ir_sha256"] = hash_files(folder / "compiled/model.xml", folder / "compiled/model.bin")
    (folder / "compiled/report.json").write_text(json.dumps(report))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "first inference": (write_model_that_cannot_infer, "its first inference failed: RuntimeError"),
    "no manifest": (lambda folder: (folder / "model.toml").unlink(), "model.toml is missing"),
    "no model": (lambda folder: (folder / "model.toml").write_text("="), "is not TOML"),
    "other weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "is not the file"),
    "folder for a file": (
        lambda folder: ((folder / "model.toml").unlink(), (folder / "model.toml").mkdir()),
        "model.toml cannot be read",
    ),
}


@pytest.fixture
def serve(models: Path, own_instance: Path) -> Iterator[Callable[[], Flask]]:
    """Serve the models, beside which a broken one may lie."""
    apps: list[Flask] = []

    def start() -> Flask:
        apps.append(create_app(Settings(models=models, instance=own_instance)))
        return apps[0]

    yield start
    for app in apps:
        app.extensions["scancer"].follower.close()


def ask(client: FlaskClient, name: str, picture: bytes) -> int:
    return client.put(f"/predictions/{name}", data=picture, headers=basic()).status_code


@pytest.mark.parametrize("name", FAULTS)
def test_model_that_fails_at_the_start_leaves_the_others_answering_and_comes_back(
    serve: Callable[[], Flask], pcam: Path, pcam_example: bytes, tmp_path: Path, name: str
) -> None:
    broken = add_version(pcam, "1.0", BROKEN)
    sound = tmp_path / "sound"
    shutil.copytree(broken, sound)
    damage, reason = FAULTS[name]
    damage(broken)
    app = serve()
    client, registry = app.test_client(), app.extensions["scancer"].registry
    assert ask(client, GOOD, pcam_example) == 200
    assert ask(client, BROKEN, pcam_example) == 503
    entry = registry.get(BROKEN)
    assert (entry.state, reason in entry.reason) == (State.UNAVAILABLE, True), entry.reason
    assert client.get("/ping").status_code == 500  # its default version was there at the start
    shutil.rmtree(broken)
    sound.rename(broken)
    assert within(30, lambda: ask(client, BROKEN, pcam_example) == 200)
    assert client.get("/ping").status_code == 200


@pytest.mark.parametrize("name", FAULTS)
def test_model_that_comes_broken_takes_neither_the_others_nor_the_server_out(
    serve: Callable[[], Flask], pcam: Path, pcam_example: bytes, tmp_path: Path, name: str
) -> None:
    app = serve()
    client, registry = app.test_client(), app.extensions["scancer"].registry
    broken = add_version(pcam, "1.0", BROKEN)
    FAULTS[name][0](broken)
    # Asked again and again: a model that nobody asks is not loaded, so that nobody knows what is wrong with it.
    assert within(10, lambda: ask(client, BROKEN, pcam_example) == 503 and registry.get(BROKEN).state == "UNAVAILABLE")
    assert ask(client, GOOD, pcam_example) == 200
    assert client.get("/ping").status_code == 200


ERRORS = [
    MemoryError(),
    OSError(errno.EMFILE, "Too many open files"),
    RuntimeError("a library's own words"),
    RecursionError("too deep"),
    KeyError("x"),
    AssertionError("the library was wrong"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_loading_raises_is_the_state_of_that_model_alone_and_is_tried_again(
    models: Path, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pcam_example: bytes, error: Exception
) -> None:
    add_version(pcam, "1.0", BROKEN)
    load, fails = OpenVINOEngine.load, [True]

    def load_or_fail(self: OpenVINOEngine) -> None:
        if fails[0] and BROKEN in str(self._folder):
            raise error
        load(self)

    monkeypatch.setattr(OpenVINOEngine, "load", load_or_fail)
    registry = load_models(Settings(models=models, instance=tmp_path))
    assert registry.table.get(BROKEN).state is State.UNAVAILABLE
    assert registry.table.get(BROKEN).reason
    registry.table.get_served(GOOD).predict(pcam_example)
    fails[0] = False
    work_until(registry, lambda: registry.table.get(BROKEN).state is State.READY, 10)
    registry.table.get_served(BROKEN).predict(pcam_example)
    registry.close()


def test_model_that_fails_is_tried_after_growing_pauses_and_said_once(
    models: Path, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (pcam / "model.toml").write_text("=")
    monkeypatch.setattr("app.registry.version_slot.FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr("app.registry.version_slot.PAUSE_FACTOR", 0)
    moments: list[float] = []
    registry = ModelRegistry(Settings(models=models, instance=tmp_path))
    find = registry._loader.load  # counts attempts

    def load(*arguments: object) -> object:
        moments.append(time.monotonic())
        return find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(registry._loader, "load", load)
    with caplog.at_level(logging.ERROR):
        follow_folders(registry, models)
        work_until(registry, lambda: len(moments) == 5, 20)
    pauses = np.diff(moments)
    assert (pauses[1:] > pauses[:-1] * 1.3).all(), pauses
    assert [record.message for record in caplog.records] == ["model unavailable"]
    registry.close()


def test_version_that_vanishes_while_it_is_loaded_is_gone_and_the_others_answer(
    models: Path, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pcam_example: bytes
) -> None:
    folder = add_version(pcam, "1.0", BROKEN)
    load = OpenVINOEngine.load

    def load_what_vanishes(self: OpenVINOEngine) -> None:
        if BROKEN in str(self._folder):
            shutil.rmtree(folder.parent)
        load(self)

    monkeypatch.setattr(OpenVINOEngine, "load", load_what_vanishes)
    registry = load_models(Settings(models=models, instance=tmp_path))
    assert registry.table.get(BROKEN).state is State.UNAVAILABLE
    follow_folders(registry, models)
    assert registry.states() == {f"{GOOD}/1.0": "READY"}
    registry.table.get_served(GOOD).predict(pcam_example)
    registry.close()


def test_folder_that_changes_while_it_is_read_is_read_again(
    models: Path, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, changes = OpenVINOEngine.load, [True]

    def load_what_changes(self: OpenVINOEngine) -> None:
        load(self)
        if changes.pop() if changes else False:
            (pcam / "MODEL_CARD.md").write_text("another card")

    monkeypatch.setattr(OpenVINOEngine, "load", load_what_changes)
    registry = load_models(Settings(models=models, instance=tmp_path))
    entry = registry.table.get(GOOD)
    assert (entry.state, entry.reason) == (State.UNAVAILABLE, "its folder changed while it was read")
    work_until(registry, lambda: registry.table.get(GOOD).state is State.READY, 10)
    registry.close()


def test_version_unregistered_while_its_loading_ends_is_not_served(
    models: Path, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(pcam, "2.0")
    older, newer = find_model_folders(models)
    load, entered, go_on, closed = OpenVINOEngine.load, threading.Event(), threading.Event(), threading.Event()

    def load_slowly(self: OpenVINOEngine) -> None:
        entered.set()
        go_on.wait(10)
        load(self)

    monkeypatch.setattr(OpenVINOEngine, "load", load_slowly)
    monkeypatch.setattr(OpenVINOEngine, "close", lambda _: closed.set())
    registry = ModelRegistry(Settings(models=models, instance=tmp_path))
    registry.apply(make_plan([older, newer], WantedState()))
    assert entered.wait(10)
    registry.apply(make_plan([older], WantedState()))
    go_on.set()
    work_until(registry, closed.is_set, 10)
    settle(registry)
    assert registry.table.versions(GOOD) == ["1.0"]
    assert registry.states() == {f"{GOOD}/1.0": "READY"}
    registry.close()


def test_change_that_could_not_be_followed_is_not_reported_and_is_followed_later(
    models: Path, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(pcam, "2.0")
    settings = Settings(models=models, instance=tmp_path / "instance")
    registry = ModelRegistry(settings)
    follower = ModelFollower(settings, registry, StoreAccess(settings))
    follower.start()
    apply, fails = registry.apply, [True]

    def apply_or_fail(*arguments: object) -> None:
        if fails[0]:
            raise OSError(errno.EMFILE, "Too many open files")
        apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "apply", apply_or_fail)
    try:
        change = ModelChanges(settings, StoreAccess(settings)).set_default(GOOD, "1.0")
        assert not within(1, lambda: read_reports(settings.instance)[0].generation >= change.generation)
        assert registry.table.get(GOOD).wanted.version == "2.0"
        fails[0] = False
        assert within(2, lambda: read_reports(settings.instance)[0].generation == change.generation)
        assert registry.table.get(GOOD).wanted.version == "1.0"
    finally:
        follower.close()


def test_folder_that_cannot_be_looked_at_concerns_no_other_model(
    models: Path, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(pcam, "1.0", BROKEN)
    settings = Settings(models=models, instance=tmp_path / "instance")
    registry = ModelRegistry(settings)
    follower = ModelFollower(settings, registry, StoreAccess(settings))
    follower.start()
    stat = Path.stat

    def stat_or_fail(self: Path, **options: bool) -> object:
        if BROKEN in str(self):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", stat_or_fail)
    try:
        shutil.copytree(pcam, models / GOOD / "3.0")
        assert within(5, lambda: registry.table.versions(GOOD) == ["1.0", "3.0"])
        assert registry.table.get(BROKEN).state is State.READY
    finally:
        follower.close()
