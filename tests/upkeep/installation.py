"""A light installation: a tiny model that answers, users, a default, and small models that come and go."""

import hashlib
import io
import random
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app import create_app
from app.config.settings import Settings
from app.errors import ConflictError, RequestError
from app.registry.model_changes import ModelChanges, Wishes
from app.state.store_access import StoreAccess
from app.users import UsersFile
from tests.conftest import basic
from tests.evaluation.tiny_model import SIDE_PX, write_tiny_model
from tests.registry.killed_changes import NAME, VERSIONS, make_store

TINY = "tiny-brightness"


def make_installation(folder: Path) -> Settings:
    """Two versions of a model that answers, the older one its default, and three small models in the store."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = make_store(folder)
    for version in ("1.0", "1.1"):
        write_tiny_model(settings.models, version)
    with open_changes(settings) as changes:
        changes.set_default(TINY, "1.0")
    return settings


@contextmanager
def open_changes(settings: Settings) -> Iterator[ModelChanges]:
    """Changes of models, whose connections are closed in the end."""
    with closing(StoreAccess(settings)) as access:
        yield ModelChanges(settings, access)


def read_generation(settings: Settings) -> int:
    with closing(StoreAccess(settings)) as access:
        return access.read_generation()


def make_quick_folder() -> Path:
    """A new folder in memory, where that is possible: every backup and restore waits until a disk has written."""
    return Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def add_users(settings: Settings, password: str, *names: str) -> None:
    for name in names:
        UsersFile(settings.instance).add(name, "predict", password)


def settle_in(folder: Path) -> Settings:
    """The settings of an installation in a folder, which may be empty."""
    return Settings(**{name: folder / name for name in ("models", "store", "instance")}, programs="all")


def come_and_go(settings: Settings, chance: random.Random) -> None:
    """Register a small model, or unregister it if it is there."""
    version = chance.choice(VERSIONS)
    with open_changes(settings) as changes:
        try:
            changes.register(version, Wishes(workers=0))
        except ConflictError:
            with suppress(RequestError):  # the default cannot go while there are others
                changes.unregister(NAME, version)
                changes.sweep()


def ask(settings: Settings, user: str, password: str) -> list[Any]:
    """What an installation answers to a few pictures, and the versions that it lists."""
    app = create_app(settings)
    client, headers = app.test_client(), basic(user, password)
    answers = []
    for level in (40, 99, 101, 220):
        pixels = np.full((SIDE_PX, SIDE_PX, 3), level, np.uint8)
        pixels[0, 0] = 0
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        for path in (f"/predictions/{TINY}", f"/predictions/{TINY}/1.1"):
            answer = client.put(path, data=stream.getvalue(), headers=headers)
            assert answer.status_code == 200, answer.text
            answers.append(answer.get_json() | {"request_id": ""})
    plan = app.extensions["scancer"].changes.plan()
    app.extensions["scancer"].follower.close()
    app.extensions["scancer"].store.close()
    return [answers, {name: (sorted(found), plan.find_default(name)) for name, found in plan.versions.items()}]


def look(settings: Settings) -> dict[str, Any]:
    """Everything that a backup keeps, as it lies there now."""
    files = {
        str(path.relative_to(settings.models)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(settings.models.rglob("*"))
        if path.is_file() and not path.relative_to(settings.models).parts[0].startswith(".")
    }
    users = UsersFile(settings.instance).read()
    with closing(StoreAccess(settings)) as access:
        state = access.read()
    return {"files": files, "users": users, "state": (state.versions, state.defaults, state.strays)}
