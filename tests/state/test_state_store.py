"""What is wanted survives: transactions, the generation, other processes, and being killed at any point."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine

from app.config.setting_types import PROJECT_ROOT
from app.errors import StateStoreError
from app.state.state_store import StateStore
from app.state.wanted import WantedVersion

ROUNDS = 100
POSTGRES = Path("/usr/lib/postgresql")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    """A place for a store: a file, or the URL of a database that runs for this test."""
    if request.param == "sqlite":
        yield tmp_path / "state.db"
        return
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install -r tests/requirements.txt")
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with run_postgres(found[-1].parent) as url:
        yield url


@pytest.fixture
def open_store(place: str | Path) -> Iterator[Callable[[], StateStore]]:
    """Opens the store, as often as asked, and closes it in the end."""
    opened: list[StateStore] = []

    def open_() -> StateStore:
        opened.append(StateStore(place))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


class run_postgres:  # noqa: N801
    """A PostgreSQL server behind a Unix socket, for one test; it refuses to run as root, so then as its own user."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())

    def run(self, *command: str) -> None:
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        done = subprocess.run([*user, *command], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def __enter__(self) -> str:
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        data, log = str(self.folder / "data"), str(self.folder / "log")
        self.run(str(self.programs / "initdb"), "-D", data, "-U", "tester", "-A", "trust")
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self.run(str(self.programs / "pg_ctl"), "-D", data, "-l", log, "-o", options, "-w", "start")
        return f"postgresql+psycopg://tester@/postgres?host={self.folder}"

    def __exit__(self, *_: object) -> None:
        self.run(str(self.programs / "pg_ctl"), "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder)


def wanted(version: str, **more: object) -> WantedVersion:
    return WantedVersion("a-model", version, f"a-model/{version}", **more)  # type: ignore[arg-type]


def test_fresh_store_wants_nothing(open_store: Callable[[], StateStore]) -> None:
    state = open_store().read()
    assert (state.generation, state.versions, state.defaults, state.strays) == (0, {}, {}, frozenset())


def test_change_is_seen_whole_by_whoever_opens_the_store(open_store: Callable[[], StateStore]) -> None:
    with open_store().change() as draft:
        draft.put(wanted("1.0", batch_size=4, token="t 1"))
        draft.put(wanted("2.0", min_workers=0, max_workers=0, is_registered=False))
        draft.defaults["a-model"] = "1.0"
        draft.strays.add("gone")
    state = open_store().read()
    assert state.generation == draft.generation == 1
    assert state.versions["a-model", "1.0"] == wanted("1.0", batch_size=4, token="t 1")
    assert state.versions["a-model", "2.0"] == wanted("2.0", min_workers=0, max_workers=0, is_registered=False)
    assert (state.defaults, state.strays) == ({"a-model": "1.0"}, {"gone"})


def test_rows_are_changed_and_deleted(open_store: Callable[[], StateStore]) -> None:
    store = open_store()
    with store.change() as draft:
        draft.put(wanted("1.0"))
        draft.put(wanted("2.0"))
        draft.defaults |= {"a-model": "1.0", "other": "3"}
        draft.strays |= {"one", "two"}
    with store.change() as draft:
        draft.put(wanted("1.0", min_workers=3, max_workers=4))
        del draft.versions["a-model", "2.0"]
        draft.defaults["a-model"] = "1.1"
        del draft.defaults["other"]
        draft.strays.discard("one")
    state = store.read()
    assert list(state.versions.values()) == [wanted("1.0", min_workers=3, max_workers=4)]
    assert (state.defaults, state.strays, state.generation) == ({"a-model": "1.1"}, {"two"}, 2)


def test_change_that_fails_changes_nothing(open_store: Callable[[], StateStore]) -> None:
    store = open_store()

    def fail() -> None:
        with store.change() as draft:
            draft.put(wanted("1.0"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (store.read().versions, store.read_generation()) == ({}, 0)


def test_changes_made_at_once_are_all_kept(open_store: Callable[[], StateStore]) -> None:
    stores = [open_store() for _ in range(4)]

    def work(store: StateStore) -> None:
        for _ in range(10):
            with store.change() as draft:
                count = len(draft.versions)
                draft.put(wanted(str(count)))

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = stores[0].read()
    assert (len(state.versions), state.generation) == (40, 40)


def execute(place: str | Path, statement: str) -> None:
    """Change a database behind the store's back."""
    engine = create_engine(URL.create("sqlite", database=str(place)) if isinstance(place, Path) else place)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_later_schema_is_refused_and_an_unmarked_one_adopted(
    place: str | Path, open_store: Callable[[], StateStore]
) -> None:
    open_store()
    is_file = isinstance(place, Path)
    execute(place, "PRAGMA user_version = 2" if is_file else "UPDATE scancer_schema SET version = 2")
    with pytest.raises(
        StateStoreError, match=r"has schema 2, and this version knows schema 1\. Start the newer version"
    ):
        open_store()
    execute(place, "PRAGMA user_version = 0" if is_file else "DROP TABLE scancer_schema")
    assert open_store().read().generation == 0
    assert open_store().read().generation == 0  # as marked now


def test_number_out_of_bounds_is_the_fault_of_its_version_alone(
    place: str | Path, open_store: Callable[[], StateStore]
) -> None:
    with open_store().change() as draft:
        draft.put(wanted("1.0"))
        draft.put(wanted("2.0"))
    execute(place, "UPDATE scancer_versions SET min_workers = 2000000000 WHERE version = '2.0'")
    state = open_store().read()
    assert (state.versions["a-model", "1.0"].fault, state.versions["a-model", "2.0"].min_workers) == ("", 1)
    assert state.versions["a-model", "2.0"].fault.startswith(
        "the state store says min_workers=2000000000 is not allowed"
    )


def test_column_more_is_an_error_of_the_store(place: str | Path, open_store: Callable[[], StateStore]) -> None:
    open_store()
    execute(place, "ALTER TABLE scancer_versions ADD COLUMN colour TEXT")
    with pytest.raises(StateStoreError, match=r"table scancer_versions has the unknown column colour: restore it"):
        open_store()


def test_store_that_cannot_be_opened_says_so_without_its_address(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    for place in (tmp_path / "state.db", tmp_path / "absent/state.db", "nonsense+nothing://user:secret@host/name"):
        with pytest.raises(StateStoreError, match="the state store cannot be used") as caught:
            StateStore(place)
        assert "secret" not in caught.value.message


@pytest.mark.slow
def test_killed_at_any_point_every_change_is_made_or_not_made(tmp_path: Path) -> None:
    """A process of its own forks the children: forking this one would take its threads along."""
    command = [sys.executable, "-m", "tests.registry.killed_changes", str(tmp_path), str(ROUNDS)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    killed, finished = (int(word) for word in done.stdout.split())
    assert killed + finished == ROUNDS
    assert killed > ROUNDS / 4
    assert finished > ROUNDS / 20
    assert time.monotonic() - started < 60


def test_writer_that_is_killed_keeps_nobody_out(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state.db")
    code = (
        "import sys, time, pathlib; from app.state.state_store import StateStore\n"
        "with StateStore(pathlib.Path(sys.argv[1])).change() as draft:\n"
        "    draft.defaults['a'] = 'b'; print('in', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "state.db")], cwd=PROJECT_ROOT, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"in\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with store.change() as draft:
        draft.defaults["c"] = str(random.random())
    assert set(store.read().defaults) == {"c"}
    store.close()
