"""A server among things that are broken: memory that cannot be written, a damaged state, models that are no files."""

import base64
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from app.api.login.authenticator import Authenticator
from app.config.setting_types import PROJECT_ROOT
from app.errors import UsersError
from app.users import USERS_FILE, UsersFile
from tests.conftest import MANAGER, MANAGER_PASSWORD, PASSWORD, USER, LiveServer, basic, find_first_versions, within
from tests.handlers.archives import make_archive

PATH = "/predictions/pcam-classification"
AUTH, OPERATOR = (USER, PASSWORD), (MANAGER, MANAGER_PASSWORD)
HANDLER = "def handle(data, context):\n    return data and [b'done'] * len(data)\n"
NO_FILE = "it is a pipe or a device, not a file|No such device or address"
NO_MEMORY = {
    "read-only": "mount -t tmpfs -o ro none /dev/shm",
    "full": "mount -t tmpfs -o size=4k none /dev/shm && head -c 4096 /dev/zero >/dev/shm/full",
    "absent": "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9",
}


def can_mount() -> bool:
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev/shm"]
    return bool(shutil.which("unshare")) and not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.skipif(not can_mount(), reason="no folder can be mounted here (it needs root)")
@pytest.mark.parametrize("how", NO_MEMORY)
def test_without_a_folder_in_memory_it_serves_and_says_where_the_metrics_lie(
    own_instance: Path, tmp_path: Path, pcam_example: bytes, how: str
) -> None:
    prefix = ["unshare", "-m", "sh", "-c", f'{NO_MEMORY[how]} && exec "$@"', "sh"]
    live = LiveServer(own_instance, tmp_path / "log", {"SCANCER_WORKERS": "1"}, prefix=prefix)
    try:
        live.start()
        assert requests.put(live.inference + PATH, data=pcam_example, auth=AUTH, timeout=30).status_code == 200
        assert "scancer_requests_total" in requests.get(live.metrics + "/metrics", timeout=10).text
        assert list(own_instance.glob("scancer-metrics-*"))
    finally:
        live.stop()
    log = live.log.read_text()
    assert "Traceback" not in log
    assert ("/dev/shm cannot be written, or is nearly full" in log) == (how != "absent")


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + bytes(5000), None], ids=repr)
def test_damaged_state_stops_the_start_with_what_to_do(
    own_instance: Path, tmp_path: Path, content: bytes | None
) -> None:
    state = own_instance / "state.db"
    if content is None:
        state.mkdir()
    else:
        state.write_bytes(content)
    live = LiveServer(own_instance, tmp_path / "log", {"SCANCER_WORKERS": "1"})
    live.launch()
    assert live.process is not None
    assert live.process.wait(30) == 1
    log = live.log.read_text()
    assert f"scancer: {state} cannot be used: the state store cannot be used: " in log
    assert "move it and its -wal and -shm away" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("mode", [0o666, 0o602, 0o620])
def test_users_that_others_may_change_let_nobody_in(own_instance: Path, tmp_path: Path, mode: int) -> None:
    users = own_instance / USERS_FILE
    users.chmod(mode)
    with pytest.raises(UsersError, match=f"may be changed by other users of this machine: run 'chmod 600 {users}'"):
        UsersFile(own_instance).read()
    authenticator = Authenticator(UsersFile(own_instance))
    assert authenticator.verify(USER, PASSWORD) is None
    users.chmod(0o600)
    assert authenticator.verify(USER, PASSWORD, "127.0.9.9") is not None
    users.chmod(mode)
    assert authenticator.verify(USER, PASSWORD, "127.0.9.9") is None


@pytest.fixture(scope="module")
def live(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of a sound model, one with a program, and some that hold no regular files; others may read its users."""
    folder = tmp_path_factory.mktemp("broken")
    own, models, temporary = folder / "instance", folder / "models", folder / "temporary"
    for each in (own, temporary):
        each.mkdir()
    shutil.copy(instance / USERS_FILE, own)
    (own / USERS_FILE).chmod(0o644)
    shutil.copytree(find_first_versions() / "pcam-classification", models / "pcam-classification")
    make_archive(models, "own-program", "own.py", {"own.py": HANDLER})
    spoil_models(models)
    settings = {"SCANCER_MODELS": str(models), "SCANCER_PROGRAMS": "all", "SCANCER_WORKERS": "2"}
    live = LiveServer(own, folder / "log", {**settings, "TMPDIR": str(temporary)})
    try:
        live.start("/health/live")
        yield live
    finally:
        live.stop()


def spoil_models(models: Path) -> None:
    """Add copies of the model in which a pipe, a socket, a device or a link to one takes the place of a file."""
    os.mkfifo(take_place(models, "pipe", "model.toml"))
    place = take_place(models, "socket", "model.toml")
    folder = os.open(place.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/{place.name}")  # its path may have 107 bytes
    os.close(folder)
    take_place(models, "endless", "model.toml").symlink_to("/dev/zero")
    with suppress(PermissionError):  # only root makes devices
        os.mknod(take_place(models, "device", "model.toml"), 0o666 | stat.S_IFCHR, os.makedev(1, 5))


def take_place(models: Path, kind: str, file: str) -> Path:
    """Copy the model under another name, and make room for something in the place of one of its files."""
    name = f"{kind}-{Path(file).name.replace('.', '-')}"
    folder = models / name / "1.0"
    shutil.copytree(PROJECT_ROOT / "models/pcam-classification/1.0", folder)
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace('"pcam-classification"', f'"{name}"'))
    (folder / file).unlink()
    return folder / file


def predict(live: LiveServer, picture: bytes, **more: Any) -> requests.Response:
    return requests.put(live.inference + PATH, data=picture, auth=AUTH, timeout=30, **more)


def test_models_that_hold_no_regular_files_fail_alone_with_their_reasons(live: LiveServer, pcam_example: bytes) -> None:
    assert within(60, lambda: predict(live, pcam_example).status_code == 200)
    models = requests.get(live.inference + "/models", auth=AUTH, timeout=10).json()["models"]
    reasons = {each["name"]: each["reason"] for each in models if each["state"] == "UNAVAILABLE"}
    assert {f"{kind}-model-toml" for kind in ("pipe", "socket", "endless")} <= set(reasons)
    assert {name: reason for name, reason in reasons.items() if not re.search(NO_FILE, reason)} == {}
    assert predict(live, pcam_example).status_code == 200
    assert "Traceback" not in live.log.read_text()


def test_users_that_others_may_read_are_named_at_the_start(live: LiveServer) -> None:
    log = live.log.read_text()
    assert f"may be read by other users of this machine: run 'chmod 600 {live.instance / USERS_FILE}'" in log


def list_writes(process: psutil.Process) -> int:
    """The bytes that a process and its children had written to disks."""
    return sum(each.io_counters().write_bytes for each in (process, *process.children(recursive=True)))


def test_no_picture_reaches_a_disk(live: LiveServer, pcam_example: bytes) -> None:
    mark = os.urandom(24).hex().encode()
    picture = add_text(pcam_example, mark + b" " * 4_000_000)
    assert live.process is not None
    server = psutil.Process(live.process.pid)
    written = list_writes(server)
    assert predict(live, picture).status_code == 200
    form = {"image": (f"{mark.decode()}.png", picture)}
    assert requests.post(live.inference + PATH, files=form, auth=AUTH, timeout=30).status_code == 200
    encoded = {"instances": [{"data": base64.b64encode(picture).decode()}]}
    assert requests.post(live.inference + PATH, json=encoded, auth=AUTH, timeout=30).status_code == 200
    assert predict(live, picture[:-1000]).status_code == 422
    head = f"PUT {PATH} HTTP/1.1\r\nHost: h\r\nAuthorization: {basic()['Authorization']}\r\n"
    for rest in ("Transfer-Encoding: chunked\r\n\r\n2000000\r\n", f"Content-Length: {len(picture)}\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", live.ports[0]), timeout=10) as broken:
            broken.sendall((head + rest).encode() + picture[:3_000_000])
            # While it is held, no file is open that could hold it either. SQLite's hold the state and the audit trail.
            names = [each.path for child in server.children(recursive=True) for each in child.open_files()]
            assert [
                name
                for name in names
                if not name.endswith(("log", "lock", ".db", ".db-wal", ".db-shm", ".bin", ".ring"))
            ] == []
    assert list_writes(server) - written < 1_000_000
    places = (live.instance, live.instance.parent / "temporary", *Path("/dev/shm").glob("scancer-metrics-*"))
    found = [path for place in places for path in place.rglob("*") if path.is_file() and mark in path.read_bytes()]
    assert found == []
    assert mark not in live.log.read_bytes()


def test_killed_arbiter_leaves_no_orphans(live: LiveServer) -> None:
    """The last test of this server, with a handler's process and its manager."""
    url = live.management + "/models/own-program?min_worker=1&synchronous=true"
    assert requests.put(url, auth=OPERATOR, timeout=60).status_code == 200
    assert live.process is not None
    children = psutil.Process(live.process.pid).children(recursive=True)
    marked = [each for each in psutil.process_iter() if str(live.instance) in read_environment(each)]
    assert len({each.pid for each in (*children, *marked)}) > 3  # arbiter, two workers, manager, handler
    live.process.send_signal(signal.SIGKILL)
    live.process.wait(10)
    _gone, alive = psutil.wait_procs([*children, *marked], timeout=20)
    assert [each.cmdline() for each in alive] == []


def read_environment(process: psutil.Process) -> str:
    try:
        return process.environ().get("SCANCER_INSTANCE", "")
    except psutil.Error:
        return ""


def add_text(png: bytes, text: bytes) -> bytes:
    """Add a text to a PNG, behind its header."""
    chunk = b"tEXt" + b"Comment\0" + text
    return png[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
