"""A real gunicorn whose instance folder is full: models go on answering, changes answer 507."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import MANAGER, MANAGER_PASSWORD, LiveServer, within
from tests.e2e.test_server import PCAM, metric, predict, wait_for_ready_workers, worker_pids

NAME = "pcam-classification"


@pytest.fixture
def small_disk_server(own_instance: Path, tmp_path: Path) -> Iterator[LiveServer]:
    """A server with an instance folder of 1 MiB, and pcam-classification 2.0 in its store."""
    users = list(own_instance.iterdir())
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system of its own needs the right to mount one")
    for path in users:
        shutil.copy(path, disk)
    source = PROJECT_ROOT / "models" / NAME / "1.0"
    shutil.copytree(source, tmp_path / "models" / NAME / "1.0")
    shutil.copytree(source, tmp_path / "store/two")
    manifest = (source / "model.toml").read_text()
    (tmp_path / "store/two/model.toml").write_text(manifest.replace('version = "1.0"', 'version = "2.0"'))
    environment = {
        "SCANCER_WORKERS": "2",
        "SCANCER_MODELS": str(tmp_path / "models"),
        "SCANCER_STORE": str(tmp_path / "store"),
    }
    live = LiveServer(disk, tmp_path / "log", environment)
    try:
        yield live.start()
    finally:
        live.stop()
        subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Write a file that takes all the space there is, also what a reader of the state store had for a moment."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        for _ in range(2):
            free = shutil.disk_usage(disk).free
            if free:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)
            time.sleep(0.3)
    return filler


def register(server: LiveServer) -> int:
    """Register what is in the store; return the status."""
    url, auth = server.management + "/models?url=two&initial_workers=1&synchronous=true", (MANAGER, MANAGER_PASSWORD)
    return requests.post(url, auth=auth, timeout=60).status_code


def find_metrics(server: LiveServer) -> Path:
    """The folder whose files the workers have mapped."""
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in worker_pids(server)]
    return Path(*set(re.findall(r"(/\S+)/counter_[-0-9]+\.db", "\n".join(maps))))


def replace_worker(server: LiveServer, ready: int = 2) -> None:
    """Kill a worker, and wait for another in its place, and for so many models in all workers."""
    before = worker_pids(server)
    os.kill(min(before), signal.SIGKILL)
    assert within(20, lambda: len(worker_pids(server)) == len(before) and min(before) not in worker_pids(server))
    wait_for_ready_workers(server, ready)


def test_on_a_full_disk_models_answer_and_changes_answer_507(
    small_disk_server: LiveServer, pcam_example: bytes
) -> None:
    live = small_disk_server
    wait_for_ready_workers(live, 2)
    filler, workers = fill(live.instance), worker_pids(live)
    assert [predict(live, PCAM, pcam_example).status_code for _ in range(10)] == [200] * 10
    assert (register(live), worker_pids(live)) == (507, workers)
    replace_worker(live)
    assert [predict(live, PCAM, pcam_example).status_code for _ in range(10)] == [200] * 10
    assert metric(live, "scancer_predictions_total") == 20
    filler.unlink()
    assert register(live) == 200
    assert predict(live, PCAM + "/2.0", pcam_example).status_code == 200
    assert live.log.read_text().count("models are not followed") <= 3  # each worker says it once


def test_new_worker_reads_what_is_wanted_from_a_full_disk(small_disk_server: LiveServer, pcam_example: bytes) -> None:
    live = small_disk_server
    assert register(live) == 200
    live.stop()
    live.start()
    wait_for_ready_workers(live, 4)  # of two versions
    fill(live.instance)
    replace_worker(live, 4)
    assert [predict(live, PCAM + "/2.0", pcam_example).status_code for _ in range(10)] == [200] * 10
    assert register(live) == 409  # who reads knows that it is registered
    url = f"{live.management}/models/pcam-classification/2.0?min_worker=1"
    assert requests.put(url, auth=(MANAGER, MANAGER_PASSWORD), timeout=60).status_code == 507


@pytest.mark.alone
def test_metrics_outlive_a_reload_and_their_folder_no_server(small_disk_server: LiveServer) -> None:
    live = small_disk_server
    wait_for_ready_workers(live, 2)
    folder, workers = find_metrics(live), worker_pids(live)
    assert live.process is not None
    live.process.send_signal(signal.SIGHUP)
    assert within(30, lambda: len(worker_pids(live)) == 2 and not worker_pids(live) & workers)
    wait_for_ready_workers(live, 2)
    assert find_metrics(live) == folder
    orphans = worker_pids(live)
    live.process.kill()
    live.process.wait()
    assert within(30, lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    assert folder.is_dir()
    live.start()
    wait_for_ready_workers(live, 2)
    assert not folder.exists()
    folder = find_metrics(live)
    live.stop()
    assert not folder.exists()
