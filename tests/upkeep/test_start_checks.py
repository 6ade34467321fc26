"""A server starts only if passwords travel encrypted, or its operator has said that they need not."""

from pathlib import Path

import pytest

from app.config.settings import Settings
from app.errors import SettingsError
from app.upkeep.start_checks import check_start, find_plain_http
from app.users import UsersFile
from tests.conftest import PASSWORD, USER, LiveServer

FAR = {"SCANCER_INFERENCE_ADDRESS": "0.0.0.0:8080", "SCANCER_METRICS_ADDRESS": "[::]:8082"}
WAYS_OUT = (
    {"SCANCER_TLS_CERTIFICATE": "/a.pem", "SCANCER_TLS_KEY": "/a.key"},
    {"SCANCER_INFERENCE_ADDRESS": "127.0.0.1:8080", "SCANCER_METRICS_ADDRESS": "[::1]:8082"},
    {"SCANCER_TRUSTED_PROXIES": "1"},
    {"SCANCER_PLAIN_HTTP": "anywhere"},
)


def test_public_address_without_tls_names_every_way_out_and_each_is_one() -> None:
    fault = find_plain_http(Settings.from_env(FAR))
    assert fault.startswith("other machines can reach 0.0.0.0:8080, [::]:8082, and passwords would travel")
    named = [*WAYS_OUT[0], "127.0.0.1", *WAYS_OUT[2], "SCANCER_PLAIN_HTTP=anywhere"]
    assert [name for name in named if name not in fault] == []
    for way in WAYS_OUT:
        assert find_plain_http(Settings.from_env(FAR | way)) == ""
    assert find_plain_http(Settings.from_env({})) == ""


@pytest.mark.parametrize("name", ["INFERENCE", "MANAGEMENT", "METRICS"])
def test_each_address_counts(name: str) -> None:
    settings = Settings.from_env({f"SCANCER_{name}_ADDRESS": "192.168.7.7:9000"})
    with pytest.raises(SettingsError, match=r"other machines can reach 192\.168\.7\.7:9000, "):
        check_start(settings)


@pytest.mark.parametrize(
    "mode, is_sound", [(0o600, True), (0o640, True), (0o604, True), (0o620, False), (0o602, False)]
)
def test_users_that_others_may_change_stop_the_start(tmp_path: Path, mode: int, is_sound: bool) -> None:
    UsersFile(tmp_path).add(USER, "predict", PASSWORD)
    (tmp_path / "users").chmod(mode)
    judge(Settings(instance=tmp_path), f"users may be changed by .*: run 'chmod 600 {tmp_path}/users'", is_sound)


@pytest.mark.parametrize(
    "mode, is_sound", [(0o600, True), (0o640, True), (0o604, False), (0o644, False), (0o660, False)]
)
def test_private_key_that_others_may_read_or_change_stops_the_start(tmp_path: Path, mode: int, is_sound: bool) -> None:
    key = tmp_path / "key.pem"
    key.touch()
    key.chmod(mode)
    judge(Settings(instance=tmp_path, tls_key=key), f"SCANCER_TLS_KEY={key} is open to other users .*: run", is_sound)


def judge(settings: Settings, reason: str, is_sound: bool) -> None:
    if is_sound:
        check_start(settings)
        return
    with pytest.raises(SettingsError, match=reason):
        check_start(settings)


@pytest.mark.slow
def test_gunicorn_does_not_start_at_a_public_address_without_tls(instance: Path, tmp_path: Path) -> None:
    live = LiveServer(instance, tmp_path / "log")
    port = live.ports[0]
    live.environment["SCANCER_INFERENCE_ADDRESS"] = f"0.0.0.0:{port}"
    live.launch()
    assert live.process is not None
    assert live.process.wait(30) == 1
    assert f"scancer: other machines can reach 0.0.0.0:{port}, and passwords" in live.log.read_text()
    assert "Traceback" not in live.log.read_text()
    live.environment["SCANCER_PLAIN_HTTP"] = "anywhere"
    try:
        live.start("/health/live")
    finally:
        live.stop()
