"""Other servers beside ours: what they are given works without `app`, and one that fails says why and is stopped."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from benchmarks.load import read_wait_ms
from benchmarks.peers import peer as peer_module
from benchmarks.peers.compare import PCAM
from benchmarks.peers.keras_flask import ISIC
from benchmarks.peers.peer import EAGER_FILES, Peer, Setup, start_peer
from benchmarks.server import find_free_ports
from tests.handlers.fixtures import has_ended

ENVIRONMENT = Path(sys.prefix)
EAGER_PEERS = ("bentoml", "litserve", "mlserver", "ray_serve", "torchserve")
PICTURE = PCAM.pictures[0]
ASK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from eager_model import EagerModel
import json, torch
assert "app" not in sys.modules
model = EagerModel(Path(sys.argv[1]))
print(json.dumps(model.infer(torch.stack([model.decode(Path(sys.argv[2]).read_bytes())]))[0]))
"""


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "peer").mkdir()
    return Setup(ENVIRONMENT, tmp_path / "peer", find_free_ports(5), PCAM, batch_size=2, delay_ms=1)


def prepare(name: str, setup: Setup) -> Peer:
    made: Peer = importlib.import_module(f"benchmarks.peers.{name}").prepare(setup)
    return made


def ask_without_app(folder: Path) -> dict[str, float]:
    """What the packed network says of a picture, in a process that cannot import `app`."""
    command = [sys.executable, "-I", "-c", ASK, str(folder), str(PICTURE)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def expect() -> dict[str, float]:
    """What the framework answers; the peers know no calibration."""
    document = json.loads((PICTURE.parent / "expected.json").read_text())
    expected: dict[str, float] = document["probabilities"][PICTURE.name]
    return expected


@pytest.mark.parametrize("name", EAGER_PEERS)
def test_peer_is_packed_with_files_that_compile_and_need_no_app(name: str, setup: Setup) -> None:
    prepare(name, setup)
    assert {path.name for path in setup.folder.iterdir()} >= {*EAGER_FILES}
    for file in setup.folder.glob("*.py"):
        compile(file.read_text(), file.name, "exec")
        assert "app." not in file.read_text()


def test_packed_network_answers_as_we_do(setup: Setup) -> None:
    setup.copy_files(*EAGER_FILES)
    assert ask_without_app(setup.folder) == pytest.approx(expect(), abs=1e-5)


def test_archive_for_torchserve_holds_all_that_its_handler_imports(setup: Setup) -> None:
    prepare("torchserve", setup)
    unpacked = setup.folder / "unpacked"
    with zipfile.ZipFile(setup.folder / "peer.mar") as archive:
        archive.extractall(unpacked)
    assert (unpacked / "torchserve_handler.py").is_file()
    assert ask_without_app(unpacked) == pytest.approx(expect(), abs=1e-5)


def test_peer_that_ends_says_why_and_what_it_started_is_stopped(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it started ignores the polite signal."""
    monkeypatch.setattr(peer_module, "STOP_TIMEOUT_S", 1)
    script = "trap '' TERM; sleep 300 & echo $! > child; echo out of luck >&2; exit 3"
    with (
        pytest.raises(RuntimeError, match=r"^broken ended with code 3; its log ends so:\nout of luck$"),
        start_peer(Peer("broken", ["sh", "-c", script], "/"), setup, b""),
    ):
        pass
    assert has_ended(int((setup.folder / "child").read_text()))


def test_peer_that_never_answers_says_what_it_logged_and_is_stopped(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts connections and says nothing."""
    monkeypatch.setattr(peer_module, "START_TIMEOUT_S", 2)
    code = (
        "import os, socket, time; from pathlib import Path\n"
        f"server = socket.create_server(('127.0.0.1', {setup.ports[0]}))\n"
        "Path('child').write_text(str(os.getpid())); print('still loading', flush=True); time.sleep(300)\n"
    )
    with (
        pytest.raises(
            RuntimeError, match=r"^silent gave no answer within 2 s \(timed out\); its log.*\nstill loading$"
        ),
        start_peer(Peer("silent", [sys.executable, "-c", code], "/"), setup, b""),
    ):
        pass
    assert has_ended(int((setup.folder / "child").read_text()))


@pytest.mark.long
@pytest.mark.parametrize("name", [*EAGER_PEERS, "keras_flask"])
def test_peer_is_compared_with_us(name: str, tmp_path: Path) -> None:
    setup = Setup(ENVIRONMENT, tmp_path, find_free_ports(5), ISIC if name == "keras_flask" else PCAM, 2, 1)
    distribution = prepare(name, setup).distribution
    try:
        version(distribution)
    except PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed: see the head of benchmarks/peers/{name}.py")
    for tool in ("wrk", *["java"] * (name == "torchserve")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    command = [sys.executable, "-m", f"benchmarks.peers.{name}", "--quick", "--environment", str(ENVIRONMENT)]
    environment = {**os.environ, "SCANCER_INSTANCE": str(tmp_path / "instance")}
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; 0 failed" in done.stdout
    assert "| this service | " in done.stdout


@pytest.mark.parametrize(
    ("printed", "wait_ms"),
    [("  830.00us", 0.83), ("   12.50ms", 12.5), ("    1.02s ", 1020), ("    1.50m ", 90_000), ("    0.00us", 0)],
)
def test_waiting_time_is_read_in_each_unit_of_wrk(printed: str, wait_ms: float) -> None:
    """It pads a unit of one letter with a space."""
    assert read_wait_ms(f"  Latency Distribution\n     50%    9.00ms\n     99% {printed}\n", "99") == pytest.approx(
        wait_ms
    )


def test_missing_waiting_time_shows_what_wrk_printed() -> None:
    with pytest.raises(ValueError, match="connection refused"):
        read_wait_ms("unable to connect: connection refused", "50")
