"""The page in a real browser."""

import shutil
import subprocess
from pathlib import Path

import pytest
import requests

from tests.conftest import PASSWORD, USER, LiveServer
from tests.evaluation.tiny_model import run_command, write_pictures, write_tiny_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("model", ["pcam-classification", "isic-classification"])
def test_browser_shows_what_curl_is_told(shipped_server: LiveServer, tmp_path: Path, model: str) -> None:
    url = f"{shipped_server.inference}/models/{model}"
    facts = requests.get(url, auth=(USER, PASSWORD), timeout=10).json()
    with_user = url.replace("http://", f"http://{USER}:{PASSWORD.replace(' ', '%20')}@")
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--dump-dom", with_user]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for word in (
        *facts["output"]["classes"],
        facts["artifact"]["sha256"],
        facts["licence"],
        "READY",
        facts["notice"],
        facts["fit"]["data"],
    ):
        assert word in done.stdout
    # The browser says so in its console when the policy in our own header keeps it from loading something.
    assert "Content Security Policy" not in done.stderr
    assert "style.css" in shipped_server.log.read_text() or "/static/<path:filename>" in shipped_server.log.read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_browser_shows_a_report_that_lies_on_disk(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "models")
    pictures = write_pictures(tmp_path / "pictures", 20, 98.5, 100.5, noise=15)
    folder = tmp_path / "report"
    done = run_command(tmp_path, "report", "tiny-brightness/1.0", "--data", pictures, "--output", folder)
    assert done.exit_code == 0, done.stderr
    assert CHROMIUM is not None
    address = (folder / "report.html").as_uri()
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--dump-dom", address]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert shown.stdout.count("<svg") == 4
    assert "Research use only. Not for diagnosis." in shown.stdout
    # The page's own policy allows styles and embedded pictures alone; a breach of it is in the console.
    assert "Content Security Policy" not in shown.stderr
    assert "CONSOLE" not in shown.stderr
