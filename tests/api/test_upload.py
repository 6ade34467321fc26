"""What a request carries, in the order it was sent, and what an address that is not this machine's may see."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from app import create_app
from app.config.setting_types import Address
from app.config.settings import Settings
from app.errors import SettingsError
from app.gunicorn_conf import check_folders
from tests.conftest import basic

PATH = "/predictions/pcam-classification"


def picture(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(width).integers(0, 256, (8, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_of_a_form_keep_their_order_whatever_their_names(client: FlaskClient) -> None:
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"; filename="p"\r\n\r\n%s\r\n' % (name, picture(width))
        for name, width in ((b"a", 10), (b"b", 11), (b"a", 12), (b"b", 13), (b"c", 14))
    )
    headers = {**basic(), "Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post(PATH, data=body + b"--x--\r\n", headers=headers).get_json()
    assert [item["input"]["width_px"] for item in answer["predictions"]] == [10, 11, 12, 13, 14]


def test_form_of_a_thousand_parts_answers_400(client: FlaskClient) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="p"\r\n\r\n\r\n'
    headers = {**basic(), "Content-Type": "multipart/form-data; boundary=x"}
    assert client.post(PATH, data=part * 1000 + b"--x--\r\n", headers=headers).status_code == 400


def test_base64_may_have_line_breaks(client: FlaskClient) -> None:
    text = base64.encodebytes(picture(20)).decode()
    assert "\n" in text
    answer = client.post(PATH, json={"instances": [{"data": text}]}, headers=basic())
    assert answer.get_json()["input"]["width_px"] == 20


@pytest.mark.parametrize(
    "inference, metrics, expected",
    [
        (Address("127.0.0.1", 9000), Address("127.0.0.1", 9002), 200),
        (Address("192.168.7.7", 9000), Address("127.0.0.1", 9002), 200),
        (Address("127.0.0.1", 9000), Address("0.0.0.0", 9002), 401),
        (Address("192.168.7.7", 9002), Address("127.0.0.1", 9002), 401),
    ],
)
def test_metrics_are_open_only_where_nobody_else_can_reach_their_port(
    tmp_path: Path, inference: Address, metrics: Address, expected: int
) -> None:
    settings = Settings(inference_address=inference, metrics_address=metrics, models=tmp_path, instance=tmp_path)
    client, port = create_app(settings).test_client(), {"SERVER_PORT": "9002"}
    assert client.get("/metrics", environ_overrides=port).status_code == expected
    described = client.options("/", environ_overrides=port)
    assert described.status_code == expected
    assert expected != 200 or "/predictions/{model_name}" in described.get_json()["paths"]


def test_folders_that_cannot_be_used_stop_the_start_with_their_names(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SCANCER_MODELS=.* is not a folder"):
        check_folders(replace(settings, instance=tmp_path, models=tmp_path / "absent"))
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"SCANCER_INSTANCE=.* cannot be written"):
        check_folders(replace(settings, instance=tmp_path / "file"))
