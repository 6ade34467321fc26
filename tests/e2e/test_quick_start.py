"""The quick start, run as a newcomer runs it, from a clone of its own."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import find_free_ports

TIMEOUT_S = 300
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def clone(folder: Path) -> Path:
    """A copy of what git tracks, without environments and build outputs."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT_ROOT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (PROJECT_ROOT / name).exists() and not name.startswith(("tests/", "training/", "benchmarks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT_ROOT / name, folder / name)
    return folder


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "get_started/quick_start.sh", *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def addresses(ports: list[int]) -> dict[str, str]:
    names = ("INFERENCE", "MANAGEMENT", "METRICS")
    return {f"SCANCER_{name}_ADDRESS": f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int], subprocess.CompletedProcess[str]]:
    """A clone in which the quick start ran, the ports it was given, and what it said."""
    folder, ports = clone(tmp_path_factory.mktemp("clone")), find_free_ports(3)
    return folder, ports, run(folder, "--check", **addresses(ports))


@pytest.mark.skipif("CI" not in os.environ, reason="installs an environment; runs where CI is set")
def test_quick_start_ends_with_both_answers_and_stops_the_server(
    installed: tuple[Path, list[int], subprocess.CompletedProcess[str]],
) -> None:
    folder, ports, done = installed
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"notice":"Research use only. Not for diagnosis."') == 2
    password = re.search(r"^Password: (\S+)", done.stdout, re.MULTILINE)
    assert password is not None
    assert re.search(r"^Manager:  demo-manager\nPassword: \S+ ", done.stdout, re.MULTILINE)
    assert done.stderr == ""
    assert (
        f"$ curl --user demo:{password[1]} http://127.0.0.1:{ports[0]}/predictions/pcam-classification" in done.stdout
    )
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", ports[0])) != 0
    site_packages = next((folder / ".venv/lib").glob("python3*/site-packages"))
    assert not (site_packages / "torch").exists()
    assert sum(path.lstat().st_size for path in (folder / ".venv").rglob("*")) < 400e6


def test_wrong_python_gets_told_which_is_right(tmp_path: Path) -> None:
    done = run(clone(tmp_path), "--check", PYTHON="/bin/false")
    assert done.returncode == 1
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr


def test_unknown_option_is_named(tmp_path: Path) -> None:
    done = run(clone(tmp_path), "--wrong")
    assert (done.returncode, "unknown option --wrong" in done.stderr) == (1, True)


def test_no_network_gets_told_what_to_do(tmp_path: Path) -> None:
    offline = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
    }
    done = run(clone(tmp_path), "--check", PIP_NO_CACHE_DIR="1", PIP_CONFIG_FILE=os.devnull, **offline)
    assert done.returncode == 1
    assert "Is there a network" in done.stderr


@pytest.mark.skipif("CI" not in os.environ, reason="installs an environment; runs where CI is set")
def test_taken_port_is_named_with_what_to_do(
    installed: tuple[Path, list[int], subprocess.CompletedProcess[str]],
) -> None:
    """In the same clone, whose environment is found to be there already."""
    ports = find_free_ports(3)
    with socket.create_server(("127.0.0.1", ports[1])):
        done = run(installed[0], "--check", **addresses(ports))
    assert done.returncode == 1
    assert f"127.0.0.1:{ports[1]} is taken" in done.stderr
    assert "get_started/quick_start.sh --stop" in done.stderr
    assert "--port 9080" in done.stderr


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif("CI" not in os.environ, reason="installs an environment; runs where CI is set")
def test_collection_is_green_from_any_folder_after_nothing_but_the_quick_start(
    installed: tuple[Path, list[int], subprocess.CompletedProcess[str]], newman: str, tmp_path: Path
) -> None:
    folder, port = installed[0], find_port_of_three()
    done = run(folder, "--port", str(port))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"\nOpen http://127.0.0.1:{port}, sign in as demo with the password above, open" in done.stdout
        printed = re.search(r"^\$ '.*/newman' run (.*)$", done.stdout, re.MULTILINE)
        assert printed is not None
        command = [newman, "run", *shlex.split(printed[1]), "--color", "off"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
    finally:
        stopped = run(folder, "--stop")
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "The server is stopped.\n", "")
    assert not is_listening(port)
    assert run(folder, "--stop").returncode == 1


def find_port_of_three() -> int:
    """A free port with two free ones behind it."""
    while True:
        (port,) = find_free_ports(1)
        if not is_listening(port + 1) and not is_listening(port + 2):
            return port


def test_nothing_to_stop_is_told(tmp_path: Path) -> None:
    done = run(clone(tmp_path), "--stop")
    assert (done.returncode, "no server of a quick start runs here" in done.stderr) == (1, True)


def test_foreign_process_is_not_stopped(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    (folder / "instance").mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        (folder / "instance/server.pid").write_text(f"{process.pid}\n")
        done = run(folder, "--stop")
        assert (done.returncode, "is not gunicorn" in done.stderr, process.poll()) == (1, True, None)
        process.kill()


def test_server_in_a_folder_with_a_long_name_is_stopped(tmp_path: Path) -> None:
    """Where no terminal is, ps may cut what it prints at 80 characters."""
    folder = clone(tmp_path)
    (folder / "instance").mkdir()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "x" * 100, "gunicorn"]) as process:
        (folder / "instance/server.pid").write_text(f"{process.pid}\n")
        threading.Thread(target=process.wait, daemon=True).start()  # one that has ended is gone once it was waited for
        done = run(folder, "--stop", COLUMNS="80")
        assert (done.returncode, done.stdout, done.stderr) == (0, "The server is stopped.\n", "")


@pytest.mark.parametrize("port", ["", "0", "65534", "http", "99999"])
def test_port_that_is_none_is_told(tmp_path: Path, port: str) -> None:
    done = run(clone(tmp_path), "--port", port)
    assert (done.returncode, "--port needs a number from 1 to 65533" in done.stderr) == (1, True)
