"""Servers of one instance folder have the same models; a claim ends with its process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import SettingsError
from app.server.instance_claim import CLAIM_FILE, claim_instance
from tests.conftest import MANAGER, MANAGER_PASSWORD, LiveServer

AUTH = (MANAGER, MANAGER_PASSWORD)
ONE_WORKER = {"SCANCER_WORKERS": "1"}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a server that has claimed its instance folder."""
    (tmp_path / "models").mkdir()
    settings = Settings(models=tmp_path / "models", instance=tmp_path)
    descriptor = claim_instance(settings)
    yield settings
    os.close(descriptor)


def test_servers_of_the_same_models_share_a_folder_by_whatever_path(held: Settings) -> None:
    (held.instance / "link").symlink_to(held.models)
    for models in (held.models, held.instance / "link", held.models / ".." / "models"):
        os.close(claim_instance(Settings(models=models, instance=held.instance)))


def test_server_of_other_models_is_told_the_folder_and_the_setting(held: Settings, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    with pytest.raises(SettingsError) as caught:
        claim_instance(Settings(models=tmp_path / "others", instance=tmp_path))
    for told in (
        f"SCANCER_INSTANCE={tmp_path}",
        str(held.models),
        "set SCANCER_INSTANCE to a folder of this server's own",
    ):
        assert told in caught.value.message


def test_server_with_another_database_is_refused_and_its_password_kept(held: Settings) -> None:
    other = Settings(models=held.models, instance=held.instance, database="postgresql://u:secret@h/n")
    with pytest.raises(SettingsError, match="another SCANCER_DATABASE") as caught:
        claim_instance(other)
    assert "secret" not in caught.value.message + (held.instance / CLAIM_FILE).read_text()


def test_folder_is_free_when_the_last_server_has_ended(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        os.close(claim_instance(Settings(models=tmp_path / name, instance=tmp_path)))


CLAIMING = """
import sys
from pathlib import Path
from app.config.settings import Settings
from app.errors import SettingsError
from app.server.instance_claim import claim_instance

sys.stdin.readline()
try:
    claim_instance(Settings(models=Path(sys.argv[1]), instance=Path(sys.argv[2])))
    print("claimed", flush=True)
except SettingsError:
    print("refused", flush=True)
sys.stdin.readline()
"""


def write_line(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_of_servers_that_start_at_once_some_win_and_all_of_one_repository(tmp_path: Path) -> None:
    starts = []
    for number in range(6):
        models = tmp_path / str(number % 2)
        models.mkdir(exist_ok=True)
        command = [sys.executable, "-c", CLAIMING, str(models), str(tmp_path)]
        pipe = subprocess.PIPE
        starts.append(subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=pipe, stdout=pipe, text=True))
    for start in starts:
        write_line(start)
    said = [start.stdout.readline().strip() for start in starts if start.stdout]
    for start in starts:  # all have said it: those that claimed still hold it
        write_line(start)
        start.communicate(timeout=30)
    assert set(said) == {"claimed", "refused"}
    assert len({number % 2 for number, word in enumerate(said) if word == "claimed"}) == 1


@pytest.mark.slow
def test_server_of_other_models_starts_once_the_first_is_killed_and_commands_and_reloads_at_any_time(
    own_instance: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    first = LiveServer(own_instance, tmp_path / "log", ONE_WORKER).start()
    others = {"SCANCER_MODELS": str(tmp_path / "models")}
    second = LiveServer(own_instance, tmp_path / "second", ONE_WORKER | others)
    try:
        assert first.process is not None
        second.launch()
        assert second.process is not None
        assert second.process.wait(30) == 1
        told = second.log.read_text()
        assert f"scancer: SCANCER_INSTANCE={own_instance} is in use by a server of other models" in told
        assert "Traceback" not in told
        environment = {**os.environ, "SCANCER_INSTANCE": str(own_instance), **others}
        command = [sys.executable, "-m", "flask", "users", "list"]
        assert (
            subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, check=False).returncode == 0
        )
        first.process.send_signal(signal.SIGHUP)
        scale = f"{first.management}/models/pcam-classification?min_worker=1&synchronous=true"
        assert requests.put(scale, auth=AUTH, timeout=30).status_code == 200
        first.process.kill()
        first.process.wait(10)
        second.launch()
        second.wait_until_answered("/health/live", 20)
    finally:
        first.stop()
        second.stop()
