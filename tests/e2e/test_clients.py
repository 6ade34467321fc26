"""Requests as curl and Java's HttpClient write them, to a real server."""

import base64
import http.client
import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from tests.conftest import PASSWORD, USER, LiveServer, basic

CURL = shutil.which("curl")
PATH = "/predictions/pcam-classification"
EXAMPLE = PROJECT_ROOT / "models/pcam-classification/1.0/examples/synthetic-normal.png"
UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQ\r\n"


def receive(client: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, response.read()


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("surface", "status"), [("inference", 200), ("management", 404), ("metrics", 404)])
def test_java_is_answered_at_every_address_and_its_connection_goes_on(
    server: LiveServer, surface: str, status: int, is_chunked: bool, pcam_example: bytes
) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: h\r\n{UPGRADE}Authorization: {basic()['Authorization']}\r\n"
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(pcam_example), pcam_example) if is_chunked else pcam_example
    head += "Transfer-Encoding: chunked\r\n" if is_chunked else f"Content-Length: {len(pcam_example)}\r\n"
    host, port = getattr(server, surface).removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        for _ in range(2):
            client.sendall(head.encode() + b"\r\n" + body)
            assert receive(client)[0] == status
            client.sendall(f"GET /ping HTTP/1.1\r\nHost: h\r\n{UPGRADE}\r\n".encode())
            assert receive(client)[0] == 200


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("-T {file}", 200),
        ("--http2 -T {file}", 200),
        ("--http2 --data-binary @{file}", 200),
        ("-F image=@{file}", 200),
        ("-F image=<{file}", 200),
        ("-F image=@{file};encoder=base64", 200),
        ("-F image=@{file};encoder=quoted-printable", 400),
        ("-F image=@{file};filename= -F note=text", 200),
        ("-F image=@{file} -F mask=;filename=", 200),
        ("-F image=@{file};filename=läsion.png", 200),
        ("--data-urlencode data@{text}", 200),
        ("-d @{text}", 200),
        ("-d @{json}", 200),
        ("-d @{file}", 400),
        ("-H Content-Type:image/png -d @{file}", 400),
    ],
)
def test_curl_is_answered_however_it_sends_a_picture(
    server: LiveServer, tmp_path: Path, options: str, status: int
) -> None:
    text = base64.encodebytes(EXAMPLE.read_bytes()).decode()
    (tmp_path / "text").write_text(text)
    (tmp_path / "json").write_text(json.dumps({"instances": [{"data": text}]}))
    files = {"file": EXAMPLE, "text": tmp_path / "text", "json": tmp_path / "json"}
    command = [str(CURL), "--silent", "--user", f"{USER}:{PASSWORD}", *options.format(**files).split(" ")]
    done = subprocess.run([*command, server.inference + PATH], capture_output=True, timeout=30, check=True)
    told = json.loads(done.stdout)
    assert told.get("code", 200) == status, told
    if status == 200:
        assert told["input"]["format"] == "PNG"
    elif "-d" in options:
        assert "--data-binary" in told["message"]
