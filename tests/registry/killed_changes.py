"""Makes changes in children that are killed at random moments, and looks whether each was made whole or not at all.

`python -m tests.registry.killed_changes FOLDER ROUNDS` prints how many children were killed and how many finished.
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.registry.model_changes import ModelChanges, Wishes
from app.state.state_store import StateStore
from app.state.store_access import StoreAccess

NAME = "small-classification"
VERSIONS = ("1", "2", "3")
ARCHIVED = "4"
"""The version that comes as an archive, and is unpacked."""
INSIDE = ("", "/.registered", "/examples", "/examples/a.png", "/model.safetensors", "/model.toml")
INSIDE_ARCHIVE = ("", "/.registered", "/MAR-INF", "/MAR-INF/MANIFEST.json", "/quick.py")
Seen = tuple[dict[str, tuple[int, int]], str | None, list[str]]


def make_store(folder: Path) -> Settings:
    """Three model folders that are sound as far as files go, and an archive; all are small."""
    manifest = (PROJECT_ROOT / "models/pcam-classification/1.0/model.toml").read_text()
    artifact = bytes(range(100))
    for version in VERSIONS:
        place = folder / "store" / version
        (place / "examples").mkdir(parents=True)
        (place / "model.safetensors").write_bytes(artifact)
        (place / "examples" / "a.png").write_bytes(b"any")
        text = manifest.replace('version = "1.0"', f'version = "{version}"').replace("pcam-classification", NAME)
        text = re.sub(r'sha256 = "[0-9a-f]+"', f'sha256 = "{hashlib.sha256(artifact).hexdigest()}"', text)
        (place / "model.toml").write_text(text)
    model = {"modelName": NAME, "modelVersion": ARCHIVED, "handler": "quick.py"}
    with zipfile.ZipFile(folder / "store" / ARCHIVED, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        archive.writestr("quick.py", "def handle(data, context):\n    return data\n")
    (folder / "models").mkdir()
    places = {name: folder / name for name in ("models", "store", "instance")}
    return Settings(**places, programs="all")


def look(settings: Settings) -> Seen:
    """Versions with their workers, the default, and every file among the models."""
    store = StateStore(settings.instance / "state.db")
    state = store.read()
    store.close()
    assert not state.strays
    versions = {each.version: (each.min_workers, each.max_workers) for each in state.versions.values()}
    files = sorted(str(path.relative_to(settings.models)) for path in settings.models.rglob("*"))
    return versions, state.defaults.get(NAME), files


def choose(seen: Seen) -> tuple[str, str, int]:
    """A change that is possible now: what, of which version, with which number."""
    versions, default, _ = seen
    absent = [version for version in (*VERSIONS, ARCHIVED) if version not in versions]
    others = [version for version in versions if version != default or len(versions) == 1]
    possible = [("register", version) for version in absent] + [("unregister", version) for version in others]
    possible += [(what, version) for what in ("scale", "set_default") for version in versions]
    return (*random.choice(possible), random.randint(2, 256))


def make(settings: Settings, what: str, version: str, number: int) -> None:
    """Make a change as the server does."""
    changes = ModelChanges(settings, StoreAccess(settings))
    if what == "register":
        changes.register(version, Wishes(workers=number))
    elif what == "unregister":
        changes.unregister(NAME, version)
        changes.sweep()
    elif what == "scale":
        changes.scale(NAME, version, number, number)
    else:
        changes.set_default(NAME, version)


def foresee(seen: Seen, what: str, version: str, number: int) -> tuple[dict[str, tuple[int, int]], str | None]:
    """Versions and default after the change."""
    versions, default = dict(seen[0]), seen[1]
    if what == "register":
        return {**versions, version: (number, number)}, default or version
    if what == "unregister":
        del versions[version]
        return versions, default if versions else None
    if what == "scale":
        return {**versions, version: (number, number)}, default
    return versions, version


def expect_files(versions: dict[str, tuple[int, int]]) -> list[str]:
    """Every file and folder that belongs to these versions."""
    inside = {version: INSIDE_ARCHIVE if version == ARCHIVED else INSIDE for version in versions}
    files = [f"{NAME}/{version}{path}" for version, paths in inside.items() for path in paths]
    return sorted([NAME, *files] if versions else [])


def main() -> None:
    """Run the rounds."""
    settings, rounds, killed = make_store(Path(sys.argv[1])), int(sys.argv[2]), 0
    make(settings, "register", "1", 1)
    longest_s = 0.03
    for _ in range(rounds):
        before = look(settings)
        change = choose(before)
        started = time.monotonic()
        child = os.fork()
        if not child:
            make(settings, *change)
            os._exit(0)
        time.sleep(random.uniform(0, longest_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            assert status == 0, change
        longest_s += 0.002 if os.WIFSIGNALED(status) else -0.002  # about half of them come to their end
        longest_s = max(longest_s, 0.005)
        ModelChanges(settings, StoreAccess(settings)).sweep()
        after = look(settings)
        assert after[:2] in (before[:2], foresee(before, *change)), (change, before, after, started)
        assert after[2] == expect_files(after[0]), (change, before, after)
        assert os.WIFSIGNALED(status) or after[:2] == foresee(before, *change)
    shutil.rmtree(sys.argv[1])
    print(killed, rounds - killed)


if __name__ == "__main__":
    main()
