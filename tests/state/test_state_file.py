"""The reader of the state file sees what the store says, imports no SQLAlchemy, and bears a file that is half made."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.errors import StateStoreError
from app.state.state_file import StateFile
from app.state.state_store import StateStore
from app.state.wanted import WantedState, WantedVersion


def test_reader_sees_what_the_store_says(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store, reader = StateStore(path), StateFile(path)
    assert reader.read() == WantedState() == store.read()
    with store.change() as draft:
        draft.put(WantedVersion("m", "1.0", "m.mar", token="t m/1.0", min_workers=2, max_workers=3, batch_size=4))
        draft.put(WantedVersion("m", "2.0", "m/2.0", is_registered=False))
        draft.defaults["m"] = "1.0"
        draft.strays.add("gone m/3.0")
        assert reader.read_generation() == 0  # nothing of a change is seen before its end
    assert reader.read() == store.read()
    assert reader.read_generation() == 1
    store.close()
    assert reader.read().versions["m", "2.0"].is_registered is False


def test_reader_needs_no_sqlalchemy(tmp_path: Path) -> None:
    code = "import sys, app.registry.model_follower; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_file_that_is_being_made_wants_nothing_and_a_broken_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    sqlite3.connect(path).close()
    path.touch()
    assert (StateFile(path).read_generation(), StateFile(path).read()) == (0, WantedState())
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StateStoreError, match=r"^the state store cannot be used: DatabaseError$"):
        StateFile(path).read()
    path.unlink()
    with pytest.raises(StateStoreError):
        StateFile(path).read_generation()
    assert not path.exists()
