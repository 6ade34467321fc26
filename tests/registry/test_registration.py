"""Registering and removing at once: only 200, 404 or 409, the right state after each, and nothing left on disk."""

import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask

from app import create_app
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import MIB, Settings
from app.errors import BadRequestError, ConflictError, InvalidModelError, ModelFolderError, StateStoreError
from app.exchange.quarantine import Quarantine
from app.registry.model_arrivals import make_token
from app.registry.model_changes import Change, ModelChanges, Wishes
from app.state.schema import VERSIONS
from app.state.store_access import StoreAccess

ROUNDS = 200
NAME = "quick"
MANIFEST = {"runtime": "python", "model": {"modelName": NAME, "modelVersion": "1.0", "handler": "quick.py"}}
FILES = {
    "MAR-INF/MANIFEST.json": json.dumps(MANIFEST).encode(),
    "quick.py": b"def handle(data, context):\n    return data\n",
    "weights.bin": os.urandom(64 * 1024),
}
WHOLE = sorted([".registered", *FILES])
MANAGEMENT = {"SERVER_PORT": "8081"}


def pack(files: dict[str, bytes]) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return body.getvalue()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("models", "store"):
        (tmp_path / name).mkdir()
    places = {name: tmp_path / name for name in ("models", "store", "instance")}
    return Settings(**places, programs="all", auth="off")


@pytest.fixture
def changes(settings: Settings) -> Iterator[ModelChanges]:
    access = StoreAccess(settings)
    yield ModelChanges(settings, access)
    access.close()


@pytest.fixture
def app(settings: Settings) -> Flask:
    """An app that nobody follows, so that no call waits for a worker."""
    app = create_app(settings)
    app.extensions["scancer"].follower.close()
    return app


def upload(app: Flask, body: bytes = pack(FILES)) -> int:
    answer = app.test_client().post("/models?initial_workers=0", data=body, environ_overrides=MANAGEMENT)
    assert answer.status_code in (200, 404, 409), answer.text
    return answer.status_code


def delete(app: Flask) -> int:
    answer = app.test_client().delete(f"/models/{NAME}/1.0", environ_overrides=MANAGEMENT)
    assert answer.status_code in (200, 404, 409), answer.text
    return answer.status_code


def at_once(*calls: Callable[[], int]) -> list[int]:
    """Make calls side by side; return what each of them returned."""
    barrier = threading.Barrier(len(calls))

    def call(which: Callable[[], int]) -> int:
        barrier.wait()
        return which()

    with ThreadPoolExecutor(len(calls)) as callers:
        return list(callers.map(call, calls))


def find_files(settings: Settings) -> list[str]:
    """Every file among the models, and every folder that is empty."""
    return sorted(
        str(path.relative_to(settings.models))
        for path in settings.models.rglob("*")
        if not path.is_dir() or not any(path.iterdir())
    )


def is_registered(settings: Settings) -> bool:
    """Whether the version is there: whole and with its row. It must be that, or not be there at all."""
    access = StoreAccess(settings)
    state = access.read()
    access.close()
    assert state.strays == set()
    token = {path.read_text() for path in settings.models.glob("*/*/.registered")}
    assert token == {wanted.token for wanted in state.versions.values()}
    assert find_files(settings) == [f"{NAME}/1.0/{name}" for name in WHOLE if token]
    return bool(token)


@pytest.mark.slow
def test_upload_and_delete_of_one_version_at_once_leave_one_of_two_states(app: Flask, settings: Settings) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    was_there = False
    for _ in range(ROUNDS):
        uploaded, deleted = at_once(lambda: upload(app), lambda: delete(app))
        seen[uploaded, deleted] += 1
        is_there = is_registered(settings)
        assert is_there == was_there + (uploaded == 200) - (deleted == 200), (uploaded, deleted, was_there)
        was_there = is_there
    assert {status for both in seen for status in both} <= {200, 404, 409}, seen
    assert len(seen) > 1, seen
    if was_there:
        assert delete(app) == 200
    assert not is_registered(settings)


def test_version_that_is_unregistered_while_its_quarantine_is_held_leaves_nothing(
    changes: ModelChanges, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "quick.mar").write_bytes(pack(FILES))
    with Quarantine(settings.models) as own:
        key = changes.register_file(tmp_path / "quick.mar", "quick.mar", Wishes(workers=0), own=own).key
        changes.sweep(changes.unregister(*key))
        access = StoreAccess(settings)
        assert access.read().strays == set()
        access.close()
        assert not (settings.models / NAME).exists()
    assert not is_registered(settings)


def test_of_two_uploads_of_one_version_at_once_one_is_taken(app: Flask, settings: Settings) -> None:
    for _ in range(20):
        assert sorted(at_once(lambda: upload(app), lambda: upload(app))) == [200, 409]
        assert is_registered(settings)
        assert delete(app) == 200
        assert not is_registered(settings)


def test_change_that_the_store_refuses_takes_the_folder_back(changes: ModelChanges, settings: Settings) -> None:
    (settings.store / "quick.mar").write_bytes(pack(FILES))
    changes.unregister(NAME, changes.register("quick.mar", Wishes(workers=0)).key[1])
    changes.sweep()
    with sqlite3.connect(settings.instance / "state.db") as store:
        store.execute(f"CREATE TRIGGER refuse BEFORE INSERT ON {VERSIONS} BEGIN SELECT RAISE(ABORT, 'no'); END")
    store.close()
    with pytest.raises(StateStoreError):
        changes.register("quick.mar", Wishes(workers=0))
    assert not is_registered(settings)


def test_folder_on_its_way_to_its_place_is_swept_once_its_process_is_gone(
    changes: ModelChanges, settings: Settings
) -> None:
    place = settings.models / NAME / "1.0"
    with Quarantine(settings.models) as quarantine:
        token = make_token(quarantine, (NAME, "1.0"))
        access = StoreAccess(settings)
        with access.open().change() as draft:
            draft.strays.add(token)
        access.close()
        place.mkdir(parents=True)
        (place / ".registered").write_text(token)
        changes.sweep()
        assert (place / ".registered").exists()
    changes.sweep()
    assert not is_registered(settings)


def test_folder_that_cannot_be_moved_is_removed_by_a_later_sweep(app: Flask, settings: Settings) -> None:
    assert upload(app) == 200
    place = settings.models / NAME / "1.0"
    if subprocess.run(["mount", "--bind", str(place), str(place)], check=False, capture_output=True).returncode:
        pytest.skip("a mount, which no folder can be moved with, needs the rights of root")
    try:
        assert delete(app) == 200
        assert upload(app) == 409
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert upload(app) == 200
    assert delete(app) == 200
    assert not is_registered(settings)


def test_version_in_whose_place_something_lies_is_refused_with_409(app: Flask, settings: Settings) -> None:
    (settings.models / NAME / "1.0").mkdir(parents=True)
    (settings.models / NAME / "1.0/notes.txt").touch()
    assert upload(app) == 409
    assert find_files(settings) == [f"{NAME}/1.0/notes.txt"]


def test_registration_is_taken_back_by_whom_it_belongs_to(changes: ModelChanges, settings: Settings) -> None:
    def register() -> Change:
        return changes.register("quick.mar", Wishes(workers=0))

    (settings.store / "quick.mar").write_bytes(pack(FILES))
    first = register()
    changes.unregister(NAME, "1.0")
    changes.sweep()
    second = register()
    with pytest.raises(ConflictError, match="was unregistered while it was loaded"):
        changes.withdraw(first)
    assert is_registered(settings)
    changes.withdraw(second)
    changes.sweep()
    assert not is_registered(settings)


COUNTED = """
import sys
from pathlib import Path
from app.config.settings import Settings
from app.registry.model_changes import ModelChanges, Wishes
from app.state.schema import VERSIONS
from app.state.store_access import StoreAccess

def count():
    return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])

folder = Path(sys.argv[1])
settings = Settings(models=folder / "models", store=folder / "store", instance=folder / "instance", programs="all")
changes = ModelChanges(settings, StoreAccess(settings))
before = count()
changes.register(sys.argv[2], Wishes(workers=0))
print(count() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel counts written bytes in Linux's /proc alone")
@pytest.mark.parametrize("source", ["folder", "archive.mar"])
def test_registration_writes_a_model_once(settings: Settings, source: str) -> None:
    files = FILES | {"weights.bin": os.urandom(8 * MIB)}
    (settings.store / "archive.mar").write_bytes(pack(files))
    with zipfile.ZipFile(settings.store / "archive.mar") as archive:
        archive.extractall(settings.store / "folder")
    command = [sys.executable, "-c", COUNTED, str(settings.models.parent), source]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert 8 * MIB < int(done.stdout) < 9 * MIB
    assert (settings.models / NAME / "1.0/weights.bin").read_bytes() == files["weights.bin"]


@pytest.mark.slow
def test_artifact_that_was_uploaded_is_the_file_in_its_place(
    changes: ModelChanges, settings: Settings, tmp_path: Path
) -> None:
    shipped = PROJECT_ROOT / "models/pcam-classification/1.0"
    manifest = tmp_path / "model.toml"
    manifest.write_text((shipped / "model.toml").read_text())
    with Quarantine(settings.models) as quarantine:
        received = quarantine.path / "model"
        received.write_bytes((shipped / "model.safetensors").read_bytes())
        number = received.stat().st_ino
        change = changes.register_file(received, "u", Wishes(workers=0), manifest, quarantine)
    assert settings.models.joinpath(*change.key, "model.safetensors").stat().st_ino == number


@pytest.mark.parametrize(
    "url",
    ["a" * 300, "a/" * 3000, "a" * 300 + "/b.mar", "\ud800", "ä" * 200],
    ids=["long name", "long path", "long folder", "no text", "long in bytes"],
)
def test_name_that_no_file_can_have_is_the_callers_mistake(app: Flask, settings: Settings, url: str) -> None:
    answer = app.test_client().post("/models", json={"url": url}, environ_overrides=MANAGEMENT)
    assert answer.status_code in (400, 404)
    assert find_files(settings) == []


@pytest.mark.parametrize("path", ["/models/{}", "/models/quick/{}", "/models/{}/1.0"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_path_of_a_model_with_a_name_too_long_answers_404(app: Flask, method: str, path: str) -> None:
    answer = app.test_client().open(path.format("a" * 300), method=method, environ_overrides=MANAGEMENT)
    assert answer.status_code == 404


@pytest.mark.parametrize("source", ["quick.mar", "two"])
@pytest.mark.parametrize("name", ["a-" * 70 + "a", "a/b", "../a-b", "ä-b", " "])
def test_name_that_no_model_may_have_is_refused_before_anything_is_done(
    app: Flask, settings: Settings, source: str, name: str
) -> None:
    (settings.store / "quick.mar").write_bytes(pack(FILES))
    (settings.store / "two").mkdir()
    for file in ("model.toml", "model.safetensors"):
        (settings.store / "two" / file).symlink_to(PROJECT_ROOT / "models/pcam-classification/1.0" / file)
    wish = {"url": source, "model_name": name, "initial_workers": 0}
    answer = app.test_client().post("/models", json=wish, environ_overrides=MANAGEMENT)
    assert (answer.status_code, answer.json["type"]) == (400, "InvalidModelException")
    assert answer.json["message"].startswith("a model's name ")
    assert find_files(settings) == []


def test_file_of_the_store_is_the_one_that_the_caller_names_by_its_hash(
    changes: ModelChanges, settings: Settings
) -> None:
    packed = pack(FILES)
    (settings.store / "quick.mar").write_bytes(packed)
    (settings.store / "folder").mkdir()
    for wrong in ("0" * 64, "zz", ""):
        with pytest.raises(InvalidModelError, match="not the one that sha256 names"):
            changes.register("quick.mar", Wishes(workers=0), wrong)
    with pytest.raises(BadRequestError, match="sha256 names one file, and this url is a folder"):
        changes.register("folder", Wishes(workers=0), "0" * 64)
    assert changes.plan().versions == {}
    assert changes.register("quick.mar", Wishes(workers=0), hashlib.sha256(packed).hexdigest().upper()).key[0] == NAME


def test_empty_name_leaves_a_model_its_own(app: Flask, settings: Settings) -> None:
    (settings.store / "quick.mar").write_bytes(pack(FILES))
    wish = {"url": "quick.mar", "model_name": "", "initial_workers": 0}
    assert app.test_client().post("/models", json=wish, environ_overrides=MANAGEMENT).status_code == 200
    assert is_registered(settings)


def test_model_in_quarantine_that_is_no_model_leaves_nothing(changes: ModelChanges, settings: Settings) -> None:
    (settings.store / "empty").mkdir()
    with pytest.raises(ModelFolderError, match=r"empty is not a model folder: it has no model\.toml"):
        changes.register("empty", Wishes())
    assert find_files(settings) == []
