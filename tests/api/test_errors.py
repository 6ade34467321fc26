"""Faults nobody foresaw: a fixed text and the request id for the caller, the details for the log alone."""

import logging

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.config.settings import Settings
from tests.conftest import MANAGER, MANAGER_PASSWORD, basic

HEADERS = (
    *("Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Content-Encoding", "Content-Length"),
    *("Content-Type", "Cookie", "Expect", "Host", "If-Modified-Since", "If-None-Match", "Origin", "Range", "Referer"),
    *("Inference-Header-Content-Length", "Sec-Fetch-Site", "X-Forwarded-For", "X-Request-ID", "X-Request-Timeout-Ms"),
)
ODD_VALUES = (
    *("", ";", "=", ",,", "[", "//[", "http://[", "http://[::1", "[::1]:x", "a:99999999999", "::", "\x80", "\xff=\xff"),
    *("-1", "0x10", "\xb2", "1\xb2", "9" * 5000, "bytes=\xff", "bytes=1-\xb2", "*/*;q=nan", "text/plain;q=1e999"),
    *("Basic \xfc", "Basic \xff\xff==", "Digest a*=\xff''%ff", "Digest a*=utf-9''%ff", 'text/html;"'),
    *("application/json; charset=\xff", "multipart/form-data; boundary=\xff", "multipart/form-data; boundary*=x''%ff"),
)


@pytest.fixture(scope="module")
def faulty(settings: Settings) -> Flask:
    """An app of which one view fails."""
    app = create_app(settings)

    def fail() -> str:
        raise ValueError("secret detail")

    app.view_functions["health.live"] = fail
    return app


def test_unexpected_fault_answers_500_with_fixed_text_and_the_request_id(
    faulty: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = faulty.test_client().get("/health/live", headers={"X-Request-ID": "request-0001"})
    assert answer.status_code == 500
    assert answer.get_json() == {
        "code": 500,
        "type": "InternalServerException",
        "message": "The server failed unexpectedly; its log has the details of request request-0001.",
    }
    assert b"secret" not in answer.data
    assert "secret detail" in caplog.text


def test_every_answer_carries_the_safe_headers(faulty: Flask) -> None:
    for path in ("/ping", "/nothing", "/health/live", "/models"):
        headers = faulty.test_client().get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Request-ID"]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    ("method", "path", "port"),
    [
        ("PUT", "/predictions/pcam-classification", 8080),
        ("POST", "/v1/models/pcam-classification:predict", 8080),
        ("POST", "/v2/models/pcam-classification/infer", 8080),
        ("GET", "/", 8080),
        ("POST", "/models?url=absent", 8081),
        ("PUT", "/models/absent-model", 8081),
        ("GET", "/metrics", 8082),
    ],
)
def test_no_value_of_a_header_is_a_fault_of_the_server(
    client: FlaskClient, pcam_example: bytes, header: str, method: str, path: str, port: int
) -> None:
    user = basic() if port == 8080 else basic(MANAGER, MANAGER_PASSWORD)
    for value in ODD_VALUES:
        answer = client.open(
            path,
            method=method,
            headers=user | {header: value},
            data=pcam_example if method != "GET" else None,
            environ_overrides={"SERVER_PORT": str(port)},
        )
        assert answer.status_code < 500, value
