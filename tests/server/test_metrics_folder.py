"""Where the files of the workers' metrics lie, and which of them are removed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import METRICS_BEGINNING, MULTIPROCESS_VARIABLE
from app.server import metrics_folder
from app.server.metrics_folder import PREFIX, MetricsFolder, choose_label
from tests.conftest import LiveServer


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders are made; a folder of memory stands for the system's."""
    monkeypatch.setenv(MULTIPROCESS_VARIABLE, "")  # so that it is put back
    place = tmp_path / "memory"
    place.mkdir()
    monkeypatch.setattr(metrics_folder, "MEMORY_FOLDER", place)
    return place


def test_folder_is_named_in_the_environment_and_its_owners_alone(place: Path, tmp_path: Path) -> None:
    folder = MetricsFolder(tmp_path)
    assert (folder.path.parent, folder.path.stat().st_mode & 0o777) == (place, 0o700)
    assert os.environ[MULTIPROCESS_VARIABLE] == str(folder.path)
    folder.remove()
    assert list(place.iterdir()) == []


def test_without_a_folder_in_memory_it_lies_in_the_instance_folder(place: Path, tmp_path: Path) -> None:
    place.rmdir()
    folder = MetricsFolder(tmp_path)
    assert folder.path.parent == tmp_path
    folder.remove()


def test_leftovers_go_and_what_another_server_or_link_has_stays(place: Path, tmp_path: Path) -> None:
    living = MetricsFolder(tmp_path)
    (place / f"{PREFIX}left").mkdir()
    (place / f"{PREFIX}left/counter_1.db").touch()
    (tmp_path / "elsewhere").mkdir()
    (place / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    (place / f"{PREFIX}file").touch()
    second = MetricsFolder(tmp_path)
    stay = {living.path.name, second.path.name, f"{PREFIX}link", f"{PREFIX}file"}
    assert {path.name for path in place.iterdir()} == stay
    assert living.path != second.path
    living.remove()
    second.remove()


def test_operators_folder_loses_earlier_totals_and_nothing_else(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "counter_1.db").touch()
    (own / "notes").touch()
    monkeypatch.setenv(MULTIPROCESS_VARIABLE, str(own))
    folder = MetricsFolder(tmp_path)
    assert os.environ[MULTIPROCESS_VARIABLE] == str(own)
    folder.remove()
    assert sorted(path.name for path in own.iterdir()) == [METRICS_BEGINNING, "notes"]
    assert list(place.iterdir()) == []


COUNTING = """
import sys
from app.server.metrics_folder import write_metrics_as

write_metrics_as(sys.argv[1])

from app.metrics import Metrics

metrics = Metrics()
metrics.count_request("/ping", "GET", 200, "", "", 0.5)
metrics.show_state("m" + sys.argv[2], "1.0", "READY", ("READY",))
print(sum(each.value for family in metrics.collect() for each in family.samples if each.name.endswith("_count")))
print([each.labels["model"] for family in metrics.collect() for each in family.samples if "state" in each.labels])
if sys.argv[3:]:
    sys.stdin.readline()
"""


def count_once(folder: Path, label: str, model: int, *more: str) -> "subprocess.Popen[str]":
    """Have a process count a request and set a gauge, as a worker with a label does."""
    command = [sys.executable, "-c", COUNTING, label, str(model), *more]
    environment = {**os.environ, MULTIPROCESS_VARIABLE: str(folder)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)


def test_new_worker_gets_the_label_of_one_that_has_ended_or_one_of_its_own() -> None:
    first, second, third = (f"{os.getpid()}-{number}" for number in (1, 2, 3))
    assert choose_label(set()) == first
    assert choose_label({first, second}) == third
    assert choose_label({first, third}) == second


@pytest.mark.slow
def test_twenty_workers_after_each_other_leave_the_files_of_one_and_all_their_counts(tmp_path: Path) -> None:
    for number in range(20):
        told, _ = count_once(tmp_path, "1-1", number).communicate(timeout=60)
        assert told == f"{number + 1}.0\n['m{number}']\n"
    files = {f"{kind}_1-1.db" for kind in ("counter", "histogram", "gauge_livesum")}
    assert {path.name for path in tmp_path.iterdir()} == files


def test_workers_at_one_time_count_apart_and_are_summed(tmp_path: Path) -> None:
    living = count_once(tmp_path, "1-1", 1, "waits")
    assert living.stdout is not None
    assert living.stdout.readline() == "1.0\n"
    told, _ = count_once(tmp_path, "1-2", 2).communicate(timeout=60)
    assert told.startswith("2.0\n")
    living.communicate("\n", timeout=60)


@pytest.mark.slow
def test_reloads_leave_the_sums_and_no_more_files_also_while_the_models_are_away(
    instance: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "metrics"
    settings = {"SCANCER_WORKERS": "2", "SCANCER_MODELS": str(tmp_path / "models"), MULTIPROCESS_VARIABLE: str(folder)}
    (tmp_path / "models").mkdir()
    live = LiveServer(tmp_path / "instance", tmp_path / "log", settings)

    def count_pings() -> float:
        lines = requests.get(live.metrics + "/metrics", timeout=10).text.splitlines()
        counters = [line for line in lines if line.startswith("scancer_requests_total{")]
        return sum(float(line.split()[-1]) for line in counters if 'rule="/health/live"' in line)

    def list_workers() -> set[str]:
        assert live.process is not None
        return set(Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children").read_text().split())

    try:
        live.start("/health/live")
        assert live.process is not None
        for number in range(1, 4):
            for _ in range(10):
                assert requests.get(live.inference + "/health/live", timeout=10).status_code == 200
            counted, before = count_pings(), list_workers()
            assert counted >= 10 * number
            if number == 3:
                (tmp_path / "models").rmdir()
            live.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 60
            while before & list_workers() or len(list_workers()) != 2:
                assert time.monotonic() < deadline, live.log.read_text()
                time.sleep(0.1)
            live.wait_until_answered("/health/live")
            assert count_pings() == counted + 1
        assert len(list(folder.glob("counter_*.db"))) <= 4
        assert len(list(folder.glob("*.db"))) <= 4 * 4
    finally:
        live.stop()
