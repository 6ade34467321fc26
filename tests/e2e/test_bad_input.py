"""Each bad input gets its status and the one error shape from a live server, and the next good request is answered."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import requests
from PIL import Image

from tests.conftest import PASSWORD, USER, LiveServer

AUTH = (USER, PASSWORD)
PATH = "/predictions/pcam-classification"


def picture(seed: int = 0, size: tuple[int, int] = (96, 96)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def save(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header states a size, with almost no pixel data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


BODIES = {
    "empty": (b"", 400, "BadRequestException"),
    "text": (b"hello", 415, "UnsupportedMediaException"),
    "pdf": (b"%PDF-1.7\n", 415, "UnsupportedMediaException"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "UnsupportedMediaException"),
    "gif": (save(picture(), "GIF"), 415, "UnsupportedMediaException"),
    "dicom": (bytes(128) + b"DICM" + bytes(64), 415, "UnsupportedMediaException"),
    "random bytes": (np.random.default_rng(1).bytes(5000), 415, "UnsupportedMediaException"),
    "truncated PNG": (half(save(picture(), "PNG")), 422, "DamagedImageException"),
    "truncated JPEG": (half(save(picture(), "JPEG")), 422, "DamagedImageException"),
    "truncated TIFF": (half(save(picture(), "TIFF")), 422, "DamagedImageException"),
    "truncated BMP": (half(save(picture(), "BMP")), 422, "DamagedImageException"),
    "truncated WebP": (half(save(picture(), "WEBP")), 422, "DamagedImageException"),
    "PNG signature alone": (b"\x89PNG\r\n\x1a\n", 422, "DamagedImageException"),
    "over 25 million pixels": (png_of_size(5001, 5000), 422, "UnsupportedImageException"),
    "side over 16384": (png_of_size(16385, 1), 422, "UnsupportedImageException"),
    "animated PNG": (
        save(picture(), "PNG", save_all=True, append_images=[picture(1)]),
        422,
        "UnsupportedImageException",
    ),
    "animated WebP": (
        save(picture(), "WEBP", save_all=True, append_images=[picture(1)]),
        422,
        "UnsupportedImageException",
    ),
    "two pages": (save(picture(), "TIFF", save_all=True, append_images=[picture(1)]), 422, "UnsupportedImageException"),
    "float samples": (save(Image.new("F", (8, 8)), "TIFF"), 422, "UnsupportedImageException"),
}


@pytest.fixture(autouse=True)
def next_good_request_is_answered(server: LiveServer, pcam_example: bytes) -> Iterator[None]:
    yield
    answer = requests.put(server.inference + PATH, data=pcam_example, auth=AUTH, timeout=30)
    assert answer.status_code == 200


def check(answer: requests.Response, status: int, kind: str) -> None:
    error = answer.json()
    assert answer.status_code == status, error
    assert set(error) == {"code", "type", "message"}
    assert (error["code"], error["type"]) == (status, kind)
    for inside in ("Traceback", "/app/", "PIL", "werkzeug", "site-packages"):
        assert inside not in answer.text


@pytest.mark.parametrize("name", BODIES)
def test_bad_body_gets_its_status(server: LiveServer, name: str) -> None:
    body, status, kind = BODIES[name]
    for method in ("PUT", "POST"):
        answer = requests.request(method, server.inference + PATH, data=body, auth=AUTH, timeout=30)
        check(answer, status, kind)


@pytest.mark.parametrize("name", BODIES)
def test_the_same_file_in_a_form_gets_the_same_status(server: LiveServer, name: str) -> None:
    body, status, kind = BODIES[name]
    answer = requests.post(server.inference + PATH, files={"image": ("x", body)}, auth=AUTH, timeout=30)
    check(answer, status, kind)


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "null",
        "{}",
        '{"instances": []}',
        '{"instances": {}}',
        '{"instances": [1]}',
        '{"instances": [{}]}',
        '{"instances": [{"data": 1}]}',
        '{"instances": [{"data": "%%%"}]}',
        '{"instances": [{"data": "ä"}]}',
        '{"instances": [{"data": ""}]}',
        "[" * 100_000,
        '{"instances": ' * 5000,
    ],
    ids=lambda body: body[:30],
)
def test_broken_json_or_base64_answers_400(server: LiveServer, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = requests.post(server.inference + PATH, data=body.encode(), headers=headers, auth=AUTH, timeout=30)
    check(answer, 400, "BadRequestException")


def test_text_in_json_answers_415_as_a_raw_one_does(server: LiveServer) -> None:
    body = {"instances": [{"data": base64.b64encode(b"hello").decode()}]}
    check(requests.post(server.inference + PATH, json=body, auth=AUTH, timeout=30), 415, "UnsupportedMediaException")


@pytest.mark.parametrize(
    "method, path, status, kind",
    [
        ("PUT", "/predictions/nope", 404, "ModelNotFoundException"),
        ("PUT", "/predictions/nope/1.0", 404, "ModelNotFoundException"),
        ("PUT", PATH + "/9.9", 404, "ModelVersionNotFoundException"),
        ("GET", "/models/nope", 404, "ModelNotFoundException"),
        ("GET", "/models/pcam-classification/9.9", 404, "ModelVersionNotFoundException"),
        ("GET", "/models/pcam-classification/examples/nope.png", 404, "ResourceNotFoundException"),
        ("GET", "/models/pcam-classification/examples/..%2fmodel.toml", 404, "ResourceNotFoundException"),
        ("GET", "/nothing/here", 404, "ResourceNotFoundException"),
        ("PUT", "/predictions", 404, "ResourceNotFoundException"),
        ("GET", PATH, 405, "MethodNotAllowedException"),
        ("DELETE", PATH, 405, "MethodNotAllowedException"),
        ("POST", "/models", 405, "MethodNotAllowedException"),
        ("PUT", "/ping", 405, "MethodNotAllowedException"),
    ],
)
def test_wrong_address_or_method(
    server: LiveServer, method: str, path: str, status: int, kind: str, pcam_example: bytes
) -> None:
    answer = requests.request(method, server.inference + path, data=pcam_example, auth=AUTH, timeout=30)
    check(answer, status, kind)
    if status == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize("auth", [None, (USER, "wrong"), ("nobody", PASSWORD)])
def test_no_or_wrong_password_answers_401(
    server: LiveServer, auth: tuple[str, str] | None, pcam_example: bytes
) -> None:
    answer = requests.put(server.inference + PATH, data=pcam_example, auth=auth, timeout=30)
    check(answer, 401, "UnauthorizedException")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_form_without_a_file_answers_400(server: LiveServer) -> None:
    answer = requests.post(server.inference + PATH, files={"image": (None, "text")}, auth=AUTH, timeout=30)
    check(answer, 400, "BadRequestException")


def test_broken_form_answers_400(server: LiveServer) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = requests.post(
            server.inference + PATH, data=b"no form", headers={"Content-Type": kind}, auth=AUTH, timeout=30
        )
        check(answer, 400, "BadRequestException")


def test_compressed_body_answers_415(server: LiveServer, pcam_example: bytes) -> None:
    headers = {"Content-Encoding": "gzip"}
    answer = requests.put(server.inference + PATH, data=pcam_example, headers=headers, auth=AUTH, timeout=30)
    check(answer, 415, "UnsupportedMediaException")


def test_too_many_pictures_answer_400(server: LiveServer, pcam_example: bytes) -> None:
    data = base64.b64encode(pcam_example).decode()
    body = {"instances": [{"data": data}] * 65}
    check(requests.post(server.inference + PATH, json=body, auth=AUTH, timeout=60), 400, "BadRequestException")


def convert_cases() -> dict[str, tuple[bytes, list[str]]]:
    base = picture(3)
    grey16 = Image.fromarray((np.arange(96 * 96, dtype=np.uint32).reshape(96, 96) * 7).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "plain": (save(base, "PNG"), []),
        "grey": (save(base.convert("L"), "PNG"), ["L converted to RGB"]),
        "16-bit grey": (save(grey16, "PNG"), ["16-bit grey scaled to 8-bit RGB"]),
        "palette": (save(base.convert("P"), "PNG"), ["P converted to RGB"]),
        "CMYK": (save(base.convert("CMYK"), "JPEG"), ["CMYK converted to RGB"]),
        "alpha": (save(base.convert("RGBA"), "PNG"), ["RGBA composited over white"]),
        "EXIF": (save(base, "JPEG", exif=exif), ["turned upright by EXIF orientation 6"]),
        "large": (save(picture(4, (200, 100)), "BMP"), ["resized from 200x100 to 96x96"]),
    }


@pytest.mark.parametrize(
    "name, case", convert_cases().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_converted_picture_is_answered_and_the_answer_says_so(
    server: LiveServer, name: str, case: tuple[bytes, list[str]]
) -> None:
    body, conversions = case
    answer = requests.put(server.inference + PATH, data=body, auth=AUTH, timeout=30).json()
    assert answer["input"]["conversions"] == conversions, json.dumps(answer)


def test_opaque_alpha_changes_no_score(server: LiveServer) -> None:
    bodies = [save(picture(3), "PNG"), save(picture(3).convert("RGBA"), "PNG"), save(picture(3), "BMP")]
    answers = [requests.put(server.inference + PATH, data=body, auth=AUTH, timeout=30).json() for body in bodies]
    assert answers[0]["probabilities"] == answers[1]["probabilities"] == answers[2]["probabilities"]


def test_picture_of_one_colour_is_answered_with_a_warning(server: LiveServer) -> None:
    answer = requests.put(
        server.inference + PATH, data=save(Image.new("RGB", (96, 96), "white"), "PNG"), auth=AUTH, timeout=30
    ).json()
    assert answer["warnings"] == ["The picture shows a single colour; the answer means nothing."]
