"""Single sign-on: the shipped nginx file, a real nginx and a real gunicorn; a stand-in plays the identity provider."""

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from app.config.setting_types import PROJECT_ROOT
from app.users import UsersFile
from tests.conftest import PASSWORD, LiveServer, find_free_ports, within
from tests.e2e.test_nginx import NGINX, SERVER_START, Proxy
from tests.server.test_tls import make_pair

NEEDS_NGINX = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")
pytestmark = [pytest.mark.slow, NEEDS_NGINX]
SHIPPED = PROJECT_ROOT / "deploy/nginx/single_sign_on.conf"
ADA, KEEPER, STRANGER = "ada@hospital.example", "keeper", "nobody@hospital.example"
MODEL = "/models/pcam-classification"
LOAD = "/v2/repository/models/nope/load"
"""A call that needs the role `manage`: 403 for others, 404 for those who have it."""


class SignIn(BaseHTTPRequestHandler):
    """Answers as oauth2-proxy does: who the session's cookie says, or 401."""

    def do_GET(self) -> None:
        """Answer `/oauth2/auth`, and the page where one signs in."""
        session = SimpleCookie(self.headers.get("Cookie", "")).get("session")
        is_asked = self.path == "/oauth2/auth"
        self.send_response(200 if not is_asked else 202 if session else 401)
        if session is not None:
            self.send_header("X-Auth-Request-Email", session.value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@dataclass
class Setting:
    """All that runs: where people come in, and the server behind."""

    url: str
    live: LiveServer

    def ask(self, session: str | None, path: str = MODEL, method: str = "GET", **headers: str) -> requests.Response:
        named = {name.replace("__", "-"): value for name, value in headers.items()}
        cookies = {"session": session} if session else {}
        return requests.request(
            method, self.url + path, headers=named, cookies=cookies, timeout=20, allow_redirects=False
        )

    def last_line(self) -> dict[str, object]:
        lines = [json.loads(line) for line in self.live.log.read_text().splitlines()]
        return [line for line in lines if line["message"] == "request"][-1]


def listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def write_files(proxy: Proxy, upstream: str, edits: dict[str, str]) -> list[str]:
    """Write both shipped files, edited as an operator would; return the command that starts nginx with them."""
    (proxy.folder / "conf").mkdir(parents=True)
    proxy.write({SERVER_START: f"server {upstream};"}).rename(proxy.folder / "conf/scancer.conf")
    shipped = SHIPPED.read_text()
    own = {
        "/etc/nginx/scancer_token": str(proxy.folder / "token"),
        "/var/log/nginx": str(proxy.folder),
        "/dev/shm/scancer-nginx": str(proxy.folder / "bodies"),
    }
    for old, new in (own | edits).items():
        assert old in shipped
        shipped = shipped.replace(old, new)
    (proxy.folder / "conf/single_sign_on.conf").write_text(shipped)
    return proxy.run_nginx(proxy.folder / "conf/*.conf")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("sso")
    users = UsersFile(folder)
    users.add(ADA, "predict", PASSWORD, ["pcam-*"])
    users.add(KEEPER, "manage", PASSWORD)
    users.add("gate", "proxy", PASSWORD)
    text, _ = users.add_token("gate", None)
    environment = {"SCANCER_TRUSTED_PROXIES": "1", "SCANCER_USER_HEADER": "X-Scancer-User", "SCANCER_WORKERS": "1"}
    live = LiveServer(folder, folder / "log", environment)
    sign_in = ThreadingHTTPServer(("127.0.0.1", 0), SignIn)
    thread = threading.Thread(target=sign_in.serve_forever)
    thread.start()
    proxy, (port,) = Proxy(folder / "nginx"), find_free_ports(1)
    proxy.folder.mkdir()
    (proxy.folder / "token").write_text(f'proxy_set_header Authorization "Bearer {text}";\n')
    try:
        live.start()
        own = {"127.0.0.1:8020": f"127.0.0.1:{port}", "127.0.0.1:4180": f"127.0.0.1:{sign_in.server_address[1]}"}
        command = write_files(proxy, live.inference.removeprefix("http://"), own)
        subprocess.run([*command, "-t"], check=True, capture_output=True)
        with (proxy.folder / "stderr").open("wb") as log:
            proxy.process = subprocess.Popen(command, stdout=log, stderr=log)
        assert within(10, lambda: listens(port))
        yield Setting(f"http://127.0.0.1:{port}", live)
    finally:
        proxy.stop()
        live.stop()
        sign_in.shutdown()
        thread.join()
        sign_in.server_close()


def test_nginx_takes_the_guides_lines_for_tls_and_the_file_of_the_token(tmp_path: Path) -> None:
    guide = (PROJECT_ROOT / "get_started/users.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- file: single_sign_on -->\n *```\n(.*?)\n *```", guide, re.DOTALL)
    writes = re.search(r"\| (sed '.*?') \| sudo tee /etc/nginx/scancer_token", guide)
    assert found is not None
    assert writes is not None
    certificate, key = make_pair(tmp_path)
    lines = found[1].replace("listen 443", f"listen 127.0.0.1:{find_free_ports(1)[0]}")
    lines = lines.replace("/etc/ssl/certs/scancer.pem", str(certificate))
    lines = lines.replace("/etc/ssl/private/scancer.key", str(key))
    proxy = Proxy(tmp_path / "nginx")
    proxy.folder.mkdir()
    written = subprocess.run(["sh", "-c", writes[1]], input="scancer_1\n", capture_output=True, text=True, check=True)
    assert written.stdout == 'proxy_set_header Authorization "Bearer scancer_1";\n'
    (proxy.folder / "token").write_text(written.stdout)
    command = write_files(proxy, "127.0.0.1:8080", {"listen 127.0.0.1:8020;": lines})
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_whoever_signed_in_is_the_user_of_the_same_name(setting: Setting, pcam_example: bytes) -> None:
    answer = setting.ask(ADA)
    assert answer.status_code == 200, answer.text
    line = setting.last_line()
    assert (line["user"], line["client"], line["outcome"]) == (ADA, "127.0.0.1", "OK")
    url = setting.url + "/predictions/pcam-classification"
    answer = requests.put(url, data=pcam_example, cookies={"session": ADA}, timeout=30)
    assert (answer.status_code, answer.json()["model"]) == (200, "pcam-classification")
    assert setting.ask(ADA, "/models/isic-classification").status_code == 403
    assert setting.ask(ADA, LOAD, "POST").status_code == 403
    assert setting.ask(KEEPER, LOAD, "POST").status_code == 404


def test_whoever_has_not_signed_in_is_led_there(setting: Setting) -> None:
    answer = setting.ask(None, MODEL + "?a=1")
    assert (answer.status_code, answer.headers["Location"].removeprefix(setting.url)) == (
        302,
        f"/oauth2/start?rd={MODEL}?a=1",
    )


def test_one_who_is_no_user_here_is_told_so(setting: Setting) -> None:
    for name in (STRANGER, "gate"):
        answer = setting.ask(name)
        assert (answer.status_code, answer.json()["message"]) == (401, "The proxy names no user of this server.")


FORGED = [
    {"X__Scancer__User": KEEPER},
    {"x__scancer__user": KEEPER},
    {"X_Scancer_User": KEEPER},
    {"X__Scancer_User": KEEPER},
    {"X__Auth__Request__Email": KEEPER},
    {"X__Scancer__User": KEEPER, "Connection": "X-Scancer-User, Authorization"},
    {"X__Forwarded__For": "127.0.0.1", "X__Scancer__User": f"{ADA}, {KEEPER}"},
]


@pytest.mark.parametrize("headers", FORGED)
def test_header_of_a_caller_makes_nobody_of_them(setting: Setting, headers: dict[str, str]) -> None:
    assert setting.ask(None, **headers).status_code == 302
    assert setting.ask(ADA, LOAD, "POST", **headers).status_code == 403
    assert setting.last_line()["user"] == ADA
    # Directly at the server, past the proxy.
    named = {name.replace("__", "-"): value for name, value in headers.items()}
    for more in ({}, {"X-Forwarded-For": "127.0.0.1", "Cookie": f"session={KEEPER}"}):
        answer = requests.get(setting.live.inference + MODEL, headers=named | more, timeout=10)
        assert answer.status_code == 401
    answer = requests.post(setting.live.inference + LOAD, headers=named, auth=(ADA, PASSWORD), timeout=10)
    assert answer.status_code == 403


def test_credentials_of_a_caller_do_not_pass_the_sign_in(setting: Setting) -> None:
    answer = requests.post(setting.url + LOAD, auth=(KEEPER, PASSWORD), cookies={"session": ADA}, timeout=10)
    assert answer.status_code == 403
