"""The commands of deploy/upgrade.md do what it says, while callers ask: none of them notices."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app import __version__
from app.config.setting_types import PROJECT_ROOT
from app.state.state_file import StateFile
from app.users import UsersFile
from benchmarks.reload import Clients
from benchmarks.server import PASSWORD, USER, MeasuredServer
from tests.conftest import find_free_ports, within

pytestmark = pytest.mark.slow
PAGE = (PROJECT_ROOT / "deploy/upgrade.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n *```sh\n(.*?)\n *```", PAGE, re.DOTALL))
BIN = Path(sys.executable).parent
OLD, NEW = "0.1.0", "0.2.0"


class Place(MeasuredServer):
    """A server that the page's commands start, in a folder that stands for `/`; ports are its own."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.home, self.ports = root, root / "opt/scancer", find_free_ports(3)
        self.instance, self.models = root / "instance", root / "models"
        names = ("INFERENCE", "MANAGEMENT", "METRICS")
        self.environment = {f"SCANCER_{n}_ADDRESS": f"127.0.0.1:{p}" for n, p in zip(names, self.ports, strict=True)}
        self.environment |= {"SCANCER_INSTANCE": str(self.instance), "SCANCER_MODELS": str(self.models)}
        self.environment |= {"SCANCER_WORKERS": "1", "SCANCER_STOP_DELAY_S": "0", "FLASK_APP": "wsgi"}

    def run(self, name: str, version: str = "") -> str:
        """Run a block of the page, with this place's names; return what it printed."""
        text = BLOCKS[name].replace("/opt/scancer", str(self.home)).replace("/var/backups", f"{self.root}/backups")
        text = text.replace("--config login", f"--config {self.root}/login").replace(":8080", f":{self.ports[0]}")
        text = text.replace("sleep 1", "sleep 0.2")
        if version:
            text = text.replace(NEW, version)
        path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
        where = self.home if "gunicorn.pid" in text and "cd " not in text else PROJECT_ROOT
        where = self.home / "current" if "flask" in text else where
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=where,
            env={**os.environ, **self.environment, **path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        log = (self.home / "log").read_text() if (self.home / "log").exists() else ""
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}{log}"
        return done.stdout

    def read_pid(self, name: str = "gunicorn.pid") -> int:
        with suppress(FileNotFoundError, ValueError):
            return int((self.home / name).read_text())
        return 0

    def change_version(self, block: str, version: str) -> None:
        """Go to another version as the page says, and wait until it is alone."""
        before = self.read_pid()
        self.run(block)
        assert f'"version":"{version}"' in self.run("wait", version)
        self.run("end")
        assert within(30, lambda: self.read_pid() not in (0, before) and not self.read_pid("gunicorn.pid.2"))
        assert {self.request("GET", "/v2")[1]["version"] for _ in range(5)} == {version}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Two releases that tell their versions, one model of two versions, and one user."""
    place = Place(tmp_path)
    for version in (OLD, NEW):
        release = place.home / "releases" / version
        shutil.copytree(PROJECT_ROOT / "app", release / "app", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("wsgi.py", "gunicorn.conf.py", "requirements_serve.txt"):
            shutil.copy(PROJECT_ROOT / name, release)
        start = release / "app/__init__.py"
        start.write_text(start.read_text().replace(f'"{__version__}"', f'"{version}"'))
        (release / "venv").symlink_to(BIN.parent)
    (place.home / "current").symlink_to(f"releases/{OLD}")
    shutil.copytree(PROJECT_ROOT / "models/pcam-classification", place.models / "pcam-classification")
    UsersFile(place.instance.parent / "instance").add(USER, "predict", PASSWORD)
    (tmp_path / "backups/scancer").mkdir(parents=True)
    (tmp_path / "login").write_text(f'user = "{USER}:{PASSWORD}"\n')
    yield place
    for name in ("gunicorn.pid", "gunicorn.pid.2"):
        with suppress(ProcessLookupError):
            if pid := place.read_pid(name):
                os.kill(pid, signal.SIGKILL)


def test_upgrade_reload_and_way_back_are_noticed_by_no_caller(place: Place) -> None:
    place.run("start")
    assert within(60, lambda: place.request("GET", "/health/ready")[0] == 200)
    with Clients(place) as clients:
        assert "read back and verified" in place.run("before")
        place.run("reload")
        time.sleep(1)
        place.change_version("upgrade", NEW)
        place.change_version("back", OLD)
    assert set(clients.counts) == {"right"}, clients.counts
    assert clients.counts.total() > 100
    place.run("models")
    assert place.request("GET", "/models/pcam-classification")[1]["version"] == "1.0"
    os.kill(place.read_pid(), signal.SIGTERM)
    assert within(30, lambda: not place.read_pid())
    assert place.run("restore").startswith("restored 2 model versions, users")
    assert StateFile(place.instance / "state.db").read().defaults == {"pcam-classification": "1.1"}  # as before
    log = (place.home / "log").read_text()
    assert "Traceback" not in log


def test_every_block_of_commands_is_run_but_those_that_need_an_engine_for_containers() -> None:
    assert set(BLOCKS) == {"before", "reload", "start", "upgrade", "wait", "end", "back", "restore", "models"}
    others = re.findall(r"<!-- not run: no engine for containers is here -->\n *```sh\n(.*?)```", PAGE, re.DOTALL)
    assert PAGE.count("```sh") == len(BLOCKS) + len(others)
    assert [block for block in others if not block.lstrip().startswith(("podman ", "docker compose "))] == []
