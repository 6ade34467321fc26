"""Pages: who gets one in place of JSON, and what they say."""

import json
import time
import timeit
from html import unescape
from pathlib import Path
from typing import Any, cast

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.api.request.routing import RoutedFlask
from app.api.request.services import NOTICE
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import ServiceUnavailableError
from app.web.documents import LARGEST_CARD_BYTES, drop_comments, find_guides, read_guide, render_markdown
from app.web.error_pages import RefusalPages
from tests.conftest import basic

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
JAVA = {"Accept": "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"}
MODEL = "/models/pcam-classification"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nope", 404, "Nothing is here"),
        ("/models/nope", 404, "Model not found: nope"),
        ("/predictions/pcam-classification", 405, "This address is for programs"),
        ("/guides/nope", 404, "There is no such guide."),
    ],
)
def test_browser_is_told_an_error_on_a_page(client: FlaskClient, path: str, status: int, words: str) -> None:
    page = client.get(path, headers=basic() | BROWSER)
    assert (page.status_code, page.mimetype) == (status, "text/html")
    assert words in page.text
    assert NOTICE in page.text
    assert client.get(path, headers=basic()).json["code"] == status


def test_page_of_a_refused_login_says_how_to_get_a_user(client: FlaskClient) -> None:
    page = client.get("/", headers=BROWSER)
    assert page.status_code == 401
    assert page.headers["WWW-Authenticate"].startswith("Basic")
    assert "flask users add NAME" in page.text


@pytest.mark.parametrize("headers", [BROWSER, JAVA, {"Accept": "*/*"}, {}])
def test_prediction_answers_json_whoever_asks(
    client: FlaskClient, headers: dict[str, str], pcam_example: bytes
) -> None:
    path = "/predictions/pcam-classification"
    assert client.post(path, headers=basic() | headers, data=pcam_example).json["model"] == "pcam-classification"
    assert client.post(path, headers=basic() | headers, data=b"no picture").json["code"] == 415


def test_form_of_a_page_is_answered_by_a_page(client: FlaskClient, pcam_example: bytes) -> None:
    for path in (MODEL, MODEL + "/1.0"):
        page = client.post(path, headers=basic() | BROWSER, data=pcam_example)
        assert (page.status_code, page.mimetype) == (200, "text/html")
        assert "threshold of 0.361" in page.text
        assert "96 x 96 pixels, PNG, RGB" in page.text
    refused = client.post(MODEL, headers=basic() | BROWSER, data=b"no picture")
    assert (refused.status_code, refused.mimetype) == (415, "text/html")
    assert client.post(MODEL, headers=basic(), data=b"no picture").json["code"] == 415


def test_pages_run_scripts_of_this_server_alone_and_json_runs_none(client: FlaskClient) -> None:
    for path in ("/", MODEL, "/guides", "/docs", "/nope"):
        policy = client.get(path, headers=basic() | BROWSER).headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
    for file in (PROJECT_ROOT / "app/web/templates").glob("*.html"):
        assert " style=" not in file.read_text()
        assert " onclick=" not in file.read_text()


def test_management_address_shows_a_model_without_a_form(client: FlaskClient, settings: Settings) -> None:
    port = {"SERVER_PORT": str(settings.management_address.port)}
    page = client.get(MODEL, headers=basic() | BROWSER, environ_overrides=port).text
    assert "<form" not in page
    assert "/docs" not in page
    metrics = {"SERVER_PORT": str(settings.metrics_address.port)}
    assert client.get("/nope", headers=basic() | BROWSER, environ_overrides=metrics).is_json


def make_environ(app: Flask, path: str, headers: dict[str, str], base: dict[str, str] | None = None) -> dict[str, Any]:
    """The WSGI environment of a form that is sent to a path."""
    environ = app.test_request_context(path, method="POST", headers=headers, environ_overrides=base).request.environ
    return cast(dict[str, Any], environ)


def test_browser_is_told_on_a_page_that_the_server_is_busy(app: Flask) -> None:
    write, error = RefusalPages(cast(RoutedFlask, app)), ServiceUnavailableError("Too many requests wait.")
    for headers in (BROWSER, BROWSER | {"Accept": "text/html"}):
        page = write(make_environ(app, MODEL, headers), error)
        assert page is not None
        assert "Too many requests wait." in page.decode()
        assert "Ask about another picture" in page.decode()
    for path, headers in (("/predictions/a-b", BROWSER), (MODEL, {"Accept": "application/json, text/html;q=0.5"})):
        assert write(make_environ(app, path, headers), error) is None


def test_page_of_a_refusal_holds_nothing_of_the_request_before(app: Flask) -> None:
    write, error = RefusalPages(cast(RoutedFlask, app)), ServiceUnavailableError("Too many requests wait.")
    pages = {write(make_environ(app, f"/models/a-{number}", BROWSER), error) for number in range(3)}
    assert len(pages) == 1
    below = write(make_environ(app, MODEL, BROWSER, {"SCRIPT_NAME": "/prefix"}), error)
    assert below is not None
    assert b'href="/prefix/models"' in below
    other = write(make_environ(app, MODEL, BROWSER), ServiceUnavailableError("Another reason."))
    assert other is not None
    assert b"Another reason." in other


def test_refusing_a_browser_costs_little_more_than_refusing_a_program(app: Flask) -> None:
    """A page rendered anew took 30 times as long as the JSON."""
    write, error = RefusalPages(cast(RoutedFlask, app)), ServiceUnavailableError("Too many requests wait.")
    environ = make_environ(app, MODEL, BROWSER)
    write(environ, error)
    costs = []
    for called in (lambda: json.dumps(error.to_json()), lambda: write(environ, error)):
        costs.append(min(timeit.repeat(called, timer=time.process_time, number=500, repeat=5)))
    assert costs[1] < 10 * costs[0]


def test_html_in_markdown_is_text_and_links_lead_to_guides_or_nowhere(tmp_path: Path) -> None:
    text = (
        "# A `b`\n\n<script>x</script> [a](evaluate.md#top) [b](../app/web) [c](javascript:x) ![d](https://e.org/f.png)"
    )
    html = render_markdown(text, PROJECT_ROOT / "get_started/x.md", "/guides")
    assert "<script>" not in html
    assert '<a href="/guides/evaluate#top">a</a>' in html
    assert "<a>b</a>" in html
    assert 'href="javascript' not in html
    assert "<img" not in html
    assert '<h1 id="a-b">' in html


def test_every_guide_is_a_page_whose_links_lead_somewhere(client: FlaskClient) -> None:
    for name in find_guides():
        page = client.get(f"/guides/{name}", headers=basic() | BROWSER)
        assert page.status_code == 200
        assert " style=" not in read_guide(name, "/guides").html


def test_answer_on_the_page_is_the_json_that_programs_get(client: FlaskClient, pcam_example: bytes) -> None:
    page = client.post(MODEL, headers=basic() | BROWSER, data=pcam_example).text
    shown = page.partition('<pre class="json" tabindex="0">')[2].partition("</pre>")[0]
    told = client.post("/predictions/pcam-classification", headers=basic(), data=pcam_example).json
    assert json.loads(unescape(shown)) | {"request_id": ""} == told | {"request_id": ""}


def test_a_card_of_unclosed_comments_is_read_at_once() -> None:
    """A quadratic search took 10 s for 64 KiB of them, during which no other thread ran."""
    started = time.process_time()
    assert drop_comments("a<!-- b -->c<!--") == "ac<!--"
    text = "<!--" * 16_384
    assert drop_comments(text) == text
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("part", ["![[", "[", "[a](", "_a", "`", "~", "<a:", "&"])
def test_no_card_of_the_largest_size_takes_long(part: str) -> None:
    started = time.process_time()
    render_markdown(part * (LARGEST_CARD_BYTES // len(part)), PROJECT_ROOT / "models/README.md", "/guides", 1)
    assert time.process_time() - started < 5


def test_a_card_that_is_a_link_is_not_shown(models: Path, own_instance: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("# Card\n\nnobody's business\n")
    card = models / "pcam-classification/1.0/MODEL_CARD.md"
    card.unlink()
    card.symlink_to(tmp_path / "secret")
    client = create_app(Settings(models=models, instance=own_instance)).test_client()
    page = client.get(MODEL, headers=basic() | BROWSER)
    assert page.status_code == 200
    assert "business" not in page.text


def test_a_form_of_another_site_is_refused(client: FlaskClient) -> None:
    headers = basic() | BROWSER | {"Sec-Fetch-Site": "cross-site"}
    assert client.post(MODEL, headers=headers, data={}).status_code == 403
