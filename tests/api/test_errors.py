"""Faults nobody foresaw: a fixed text and the request id for the caller, the details for the log alone."""

import logging

import pytest
from flask import Flask

from app import create_app
from app.config.settings import Settings


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
