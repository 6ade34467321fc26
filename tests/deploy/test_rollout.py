"""The shipped nginx file for a rollout, and a real nginx: who meets which version, and what a shadow sees."""

import os
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import find_free_ports, within
from tests.e2e.test_nginx import FRAME, NGINX

SHIPPED = PROJECT_ROOT / "deploy/nginx/rollout.conf"
CALLERS = 400
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)"),
]


class Version:
    """Says its name to every request, and keeps what it got."""

    def __init__(self, name: str) -> None:
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def versions() -> Iterator[dict[str, Version]]:
    made = {name: Version(name) for name in ("stable", "canary", "shadow")}
    yield made
    for each in made.values():
        each.stop()


@pytest.fixture
def url(versions: dict[str, Version], tmp_path: Path) -> Iterator[str]:
    """The shipped file with the shadow on, edited in addresses and folders."""
    port, text = find_free_ports(1)[0], SHIPPED.read_text()
    edits = {
        f"127.0.0.1:{old}": f"127.0.0.1:{versions[name].port}"
        for name, old in (("stable", 8080), ("canary", 9080), ("shadow", 9180))
    }
    edits |= {"127.0.0.1:8010": f"127.0.0.1:{port}", "#mirror": "mirror", "/var/log/nginx": str(tmp_path)}
    for old, new in (edits | {"/dev/shm/scancer-nginx": f"{tmp_path}/bodies"}).items():
        assert old in text, f"the shipped file no longer has {old!r}"
        text = text.replace(old, new)
    (tmp_path / "rollout.conf").write_text(text)
    user = "user root root;" if os.geteuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(FRAME.format(folder=tmp_path, file=tmp_path / "rollout.conf", user=user))
    assert NGINX is not None
    with (tmp_path / "stderr").open("wb") as log:
        process = subprocess.Popen([NGINX, "-p", tmp_path, "-c", "nginx.conf", "-e", "stderr"], stderr=log)

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "stderr").read_text()
        with suppress(requests.ConnectionError):
            return requests.put(f"http://127.0.0.1:{port}/", data=b"first", timeout=5).ok
        return False

    try:
        assert within(10, answers)
        yield f"http://127.0.0.1:{port}/predictions/pcam-classification"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.long
def test_a_tenth_of_the_callers_meets_the_canary_and_each_always_the_same(url: str) -> None:
    def ask(caller: int) -> str:
        return requests.put(
            url, data=b"x", headers={"X-Forwarded-For": f"10.0.{caller // 250}.{caller}"}, timeout=10
        ).text

    first = [ask(caller) for caller in range(CALLERS)]
    assert [ask(caller) for caller in range(0, CALLERS, 10)] == first[::10]
    counts = Counter(first)
    assert set(counts) == {"stable", "canary"}
    assert 0.05 < counts["canary"] / CALLERS < 0.15


def test_the_shadow_sees_every_picture_and_answers_nobody(url: str, versions: dict[str, Version]) -> None:
    picture = os.urandom(100_000)
    assert requests.put(url, data=picture, timeout=10).text in ("stable", "canary")
    assert within(10, lambda: picture in versions["shadow"].bodies)


def test_shipped_file_leaves_the_shadow_off() -> None:
    assert re.search(r"^ *#mirror ", SHIPPED.read_text(), re.MULTILINE)
