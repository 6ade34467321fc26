"""A database that cannot keep the state stops the start, with what to mend and without its password."""

import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.errors import SettingsError
from app.state import database_check
from app.state.database_check import check_database
from app.state.state_store import StateStore
from tests.conftest import LiveServer

SECRET = "s3cr3t-word"


@pytest.mark.parametrize(
    "url, told",
    [
        (f"nosuch://u:{SECRET}@h/n", "SQLAlchemy has no dialect nosuch; postgresql+psycopg, for example, is one."),
        (f"mysql+pymysql://u:{SECRET}@h/n", "its driver is not installed: run \"pip install 'pymysql'\"."),
        (f"mysql://u:{SECRET}@h/n", "its driver is not installed: run \"pip install 'mysqlclient'\"."),
        (f"postgresql+psycopg://u:{SECRET}@h:port/n", "it is no URL of the form dialect+driver://user:password@host"),
        ("sqlite:////nowhere/at/all.db", "No such file or directory: '/nowhere/at/all.db'."),
        (f"postgresql+psycopg://u:{SECRET}@127.0.0.1:1/n", "Connection refused."),
    ],
    ids=["dialect", "driver", "driver of another name", "port", "no such folder", "no server"],
)
def test_url_that_cannot_work_is_told_with_what_to_mend(url: str, told: str) -> None:
    with pytest.raises(SettingsError) as raised:
        check_database(url)
    assert raised.value.message.startswith("SCANCER_DATABASE cannot be used: ")
    assert told in raised.value.message
    assert SECRET not in raised.value.message


@pytest.mark.slow
def test_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_check, "CHECK_TIMEOUT_S", 3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"postgresql+psycopg://u:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/n"
        with pytest.raises(SettingsError, match=r"its server does not answer within 3 s\.$"):
            check_database(url)


def test_database_that_works_has_its_tables_afterwards(tmp_path: Path) -> None:
    check_database(f"sqlite:///{tmp_path}/state.db")
    store = StateStore(tmp_path / "state.db")
    assert store.read_generation() == 0
    store.close()


def test_check_loads_no_driver_into_the_arbiter(tmp_path: Path) -> None:
    code = (
        "import sys; from app.state.database_check import check_database; "
        f"check_database('sqlite:///{tmp_path}/state.db'); print('sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_database_of_the_server_itself_is_not_checked() -> None:
    check_database("sqlite")


def test_server_does_not_start_with_such_a_database(instance: Path, tmp_path: Path) -> None:
    url = f"mysql+pymysql://u:{SECRET}@h/n"
    live = LiveServer(tmp_path / "instance", tmp_path / "log", {"SCANCER_DATABASE": url})
    live.launch()
    assert live.process is not None
    assert live.process.wait(60) == 1
    log = live.log.read_text()
    assert "scancer: SCANCER_DATABASE cannot be used: its driver is not installed: run " in log
    assert SECRET not in log
    assert "Traceback" not in log
