"""A model as the body of a request, where the disk is full, and where nothing holds the body's bounds for us."""

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import create_app
from app.api.management.model_bodies import ModelBody
from app.config.settings import MIB, Settings
from app.errors import BadRequestError, BodyTooLargeError

MANAGEMENT = {"SERVER_PORT": "8081"}


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder of 1 MiB of which nothing else uses any."""
    folder = tmp_path / "models"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system of its own needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("way", ["raw", "form"])
def test_full_disk_answers_507_and_nothing_is_left(full_disk: Path, tmp_path: Path, way: str) -> None:
    app = create_app(Settings(models=full_disk, instance=tmp_path / "instance", auth="off"))
    body, kind = bytes(2 * MIB), "application/octet-stream"
    if way == "form":
        kind = "multipart/form-data; boundary=b"
        body = b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n' + body + b"\r\n--b--\r\n"
    answer = app.test_client().post("/models", data=body, content_type=kind, environ_overrides=MANAGEMENT)
    app.extensions["scancer"].follower.close()
    assert (answer.status_code, answer.json["type"]) == (507, "InsufficientStorageException")
    assert list(full_disk.iterdir()) == []


def read_all(body: ModelBody) -> bytes:
    return b"".join(iter(body.read, b""))


def test_body_is_read_to_its_stated_length_and_no_further() -> None:
    stream = io.BytesIO(b"0123456789")
    assert read_all(ModelBody({"wsgi.input": stream, "CONTENT_LENGTH": "4"}, 4)) == b"0123"
    assert read_all(ModelBody({"wsgi.input": stream}, 4)) == b""
    assert stream.read() == b"456789"


def test_body_that_is_shorter_than_stated_is_refused() -> None:
    body = ModelBody({"wsgi.input": io.BytesIO(b"0123"), "CONTENT_LENGTH": "5"}, 9)
    with pytest.raises(BadRequestError):
        read_all(body)


def test_limit_holds_for_a_stated_length_and_for_none() -> None:
    with pytest.raises(BodyTooLargeError):
        ModelBody({"wsgi.input": io.BytesIO(b"01234"), "CONTENT_LENGTH": "5"}, 4)
    endless = {"wsgi.input_terminated": True}
    assert read_all(ModelBody(endless | {"wsgi.input": io.BytesIO(b"0123")}, 4)) == b"0123"
    with pytest.raises(BodyTooLargeError):
        ModelBody(endless | {"wsgi.input": io.BytesIO(b"01234")}, 4)
