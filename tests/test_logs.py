"""Log lines: for programs or for a person, never forged, and with the fault of a thread."""

import json
import logging
import subprocess
import sys
from dataclasses import replace

import pytest
from flask import Flask
from werkzeug.test import Client

from app.api.request.routing import trust_proxies
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.logs import JSONFormatter, TextFormatter
from tests.conftest import USER, basic

PATH = "/models/pcam-classification"


def make_record(message: str, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    record = logging.getLogger("app.tests").makeRecord("app.tests", level, __file__, 1, message, (), None, extra=extra)
    record.created, record.msecs = 1_790_000_000.25, 250.0
    return record


def test_text_has_time_level_message_and_fields_in_order() -> None:
    line = TextFormatter().format(make_record("request", status=200, user="ada", outcome="Not Found", other="dropped"))
    assert line == '2026-09-21T14:13:20.250Z INFO    request user=ada status=200 outcome="Not Found"'


@pytest.mark.parametrize("text", ["a\n2026-01-01 INFO forged", "a\u2028b", "a\x1b[31m", 'a" user=eve', "ä", "a=b"])
def test_no_value_forges_a_line_or_a_field(text: str) -> None:
    line = TextFormatter().format(make_record(text, reason=text))
    assert line.isascii()
    assert line.isprintable()
    assert line.endswith(f"reason={json.dumps(text)}")


def test_traceback_of_a_text_line_is_indented() -> None:
    record = make_record("unexpected error", logging.ERROR)
    error = ValueError("a\n2026-01-01T00:00:00.000Z INFO    forged\x1b")
    record.exc_info = ValueError, error, error.__traceback__
    first, *rest = TextFormatter().format(record).split("\n")
    assert first == "2026-09-21T14:13:20.250Z ERROR   unexpected error"
    assert rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


@pytest.mark.parametrize("shape", ["json", "text"])
def test_fault_that_ends_a_thread_is_one_line_without_its_message(shape: str) -> None:
    code = f"""
import threading
from app.logs import configure_logs
configure_logs("WARNING", "{shape}")
def fail():
    raise ValueError("jane doe")
thread = threading.Thread(target=fail, name="a-thread")
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    reason = "ValueError at threading.py:"
    if shape == "json":
        told = json.loads(line)
        assert (told["level"], told["logger"], told["message"]) == ("ERROR", "app.threads", "a fault ended a thread")
        line = told["reason"]
    assert reason in line
    assert "<string>:6, in the thread a-thread" in line
    assert "jane" not in line


@pytest.mark.parametrize(
    ("path", "credentials", "status", "outcome"),
    [
        (PATH, True, 200, "OK"),
        (PATH, False, 401, "UnauthorizedException"),
        ("/models/nope", True, 404, "ModelNotFoundException"),
        ("/", True, 303, "See Other"),
    ],
)
def test_access_line_names_client_user_and_outcome(
    app: Flask, caplog: pytest.LogCaptureFixture, path: str, credentials: bool, status: int, outcome: str
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    client = Client(trust_proxies(app.wsgi_app, 1))
    forwarded = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}  # the first is the caller's own word
    headers = (basic() if credentials else {}) | forwarded
    client.get(path, headers=headers, environ_overrides={"REMOTE_ADDR": "127.0.0.1"}).close()
    (line,) = [json.loads(JSONFormatter().format(each)) for each in caplog.records if each.name == "app.access"]
    assert (line["client"], line["status"], line["outcome"]) == ("203.0.113.9", status, outcome)
    assert line.get("user") == (USER if credentials else None)


def test_text_in_place_of_an_address_is_not_logged(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app")
    client = Client(trust_proxies(app.wsgi_app, 1))
    for text in ("jane doe", "x" * 5000, "192.0.2.7:80", "fe80::1%jane"):
        client.get(PATH, headers=basic(USER, "wrong") | {"X-Forwarded-For": text}).close()
    lines = [json.loads(JSONFormatter().format(each)) for each in caplog.records]
    assert {line["client"] for line in lines if line.get("client")} == {"fe80::1"}
    assert "jane" not in json.dumps(lines)
    assert "xxx" not in json.dumps(lines)


def test_lines_are_for_programs_unless_set_otherwise() -> None:
    assert Settings().log_format == "json"
    assert Settings.from_env({"SCANCER_LOG_FORMAT": "TEXT"}) == replace(Settings(), log_format="text")
