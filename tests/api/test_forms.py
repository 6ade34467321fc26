"""Bodies as real clients write them: each holds the same picture, and is answered as the bare picture is."""

import base64
import io
import json
import re
from collections.abc import Callable
from urllib.parse import quote_plus

import pytest
from flask.testing import FlaskClient
from PIL import Image

from app.api.request.forms import MAX_FIELDS, MAX_HEAD_BYTES, MAX_PAIRS, PIECE_BYTES
from tests.conftest import basic

PATH = "/predictions/pcam-classification"
FORM, URLENCODED = "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"
NAMED = b'Content-Disposition: form-data; name="image"; filename="a.png"'
UNNAMED = b'Content-Disposition: form-data; name="image"'
NOBODY_CHOSE = b'Content-Disposition: form-data; name="mask"; filename=""\r\nContent-Type: application/octet-stream'
TEXT = b'Content-Disposition: form-data; name="note"\r\n\r\na text\r\n--x\r\n'


def form(*parts: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"--x\r\n%b\r\n\r\n%b\r\n" % part for part in parts) + b"--x--\r\n"


def encode(picture: bytes) -> bytes:
    return base64.b64encode(picture)


def post(client: FlaskClient, body: bytes, kind: str | None) -> tuple[int, str]:
    """Send a body that is refused; return the status and the message."""
    headers = basic() | ({"Content-Type": kind} if kind is not None else {})
    answer = client.post(PATH, data=body, headers=headers)
    told = answer.get_json()
    return answer.status_code, told["predictions"][0]["message"] if "predictions" in told else told["message"]


BODIES: dict[str, tuple[str | None, Callable[[bytes], bytes]]] = {
    "no content type": (None, lambda picture: picture),
    "type of any bytes": ("application/octet-stream", lambda picture: picture),
    "type that does not exist": ("image/jpg", lambda picture: picture),
    "type with a parameter": ("image/png; charset=utf-8", lambda picture: picture),
    "type of text": ("text/plain", lambda picture: picture),
    "type of JSON": ("application/json", lambda picture: picture),
    "curl --data-binary": (URLENCODED, lambda picture: picture),
    "base64": ("text/plain", encode),
    "base64 without a type, in lines": (None, base64.encodebytes),
    "data URL": ("text/plain;charset=UTF-8", lambda picture: b"data:image/png;base64," + encode(picture)),
    "curl -d of base64": (URLENCODED, encode),
    "field of a form in base64": (URLENCODED, lambda picture: b"id=7&image=" + encode(picture) + b"&n="),
    "field in base64, encoded": (
        URLENCODED,
        lambda p: b"image=" + encode(p).replace(b"+", b"%2B").replace(b"/", b"%2F"),
    ),
    "field in base64, in lines": (URLENCODED, lambda p: b"image=" + quote_plus(base64.encodebytes(p)).encode()),
    "field that is the picture": (URLENCODED, lambda p: b"id=7&data=" + quote_plus(p).encode()),
    "data URL in a field": (
        URLENCODED,
        lambda p: b"image=" + quote_plus(b"data:image/png;base64," + encode(p)).encode(),
    ),
    "file": (FORM, lambda picture: form((NAMED, picture))),
    "file without a name": (FORM, lambda picture: form((UNNAMED, picture))),
    "file without a name, with its type": (FORM, lambda p: form((UNNAMED + b"\r\nContent-Type: image/png", p))),
    "file without a name, in a part without one": (FORM, lambda p: form((b"Content-Disposition: form-data", p))),
    "attachment": (FORM, lambda picture: form((b"Content-Disposition: attachment; filename=a.png", picture))),
    "name in UTF-8": (FORM, lambda p: form((UNNAMED + b"; filename*=UTF-8''l%C3%A4sion.png", p))),
    "name in Latin 1": (FORM, lambda p: form((UNNAMED + b'; filename="l\xe4sion.png"', p))),
    "lower case": (FORM, lambda p: form((NAMED.lower() + b"\r\ncontent-type:image/png", p))),
    "base64 part": (FORM, lambda p: form((NAMED + b"\r\nContent-Transfer-Encoding: base64", base64.encodebytes(p)))),
    "base64 part without a name": (
        FORM,
        lambda p: form((UNNAMED + b"\r\ncontent-transfer-encoding: BASE64", encode(p))),
    ),
    "binary part": (FORM, lambda p: form((NAMED + b"\r\nContent-Transfer-Encoding: binary", p))),
    "data URL in a part": (FORM, lambda p: form((UNNAMED, b"data:image/png;base64," + encode(p)))),
    "file in base64": (FORM, lambda p: form((NAMED + b"\r\nContent-Type: text/plain", encode(p)))),
    "file that nobody chose behind": (FORM, lambda p: form((NAMED, p), (NOBODY_CHOSE, b""))),
    "file that nobody chose before": (FORM, lambda p: form((NOBODY_CHOSE, b""), (NAMED, p), (UNNAMED, b""))),
    "texts beside": (FORM, lambda p: b"--x\r\n" + TEXT + form((NAMED, p))[5:]),
    "text with an encoding beside": (
        FORM,
        lambda p: form((UNNAMED + b"\r\nContent-Transfer-Encoding: quoted-printable", b"a=20text"), (NAMED, p)),
    ),
    "text in Latin 1 beside": (FORM, lambda p: form((UNNAMED, b"L\xe4sion"), (NAMED, p))),
    "text in Shift-JIS beside": (FORM, lambda p: form((UNNAMED, "病変".encode("shift-jis")), (NAMED, p))),
    "text in UTF-16 beside": (
        FORM,
        lambda p: form((UNNAMED + b"\r\nContent-Type: text/plain; charset=utf-16", "a".encode("utf-16")), (NAMED, p)),
    ),
    "type of a form": (FORM, lambda picture: picture),
    "type of a form without a boundary": ("multipart/form-data", lambda picture: picture),
    "line feeds alone": (FORM, lambda p: b"--x\n" + NAMED + b"\n\n" + p + b"\n--x--\n"),
    "preamble and epilogue": (FORM, lambda p: b"This is a form.\r\n" + form((NAMED, p)) + b"That was it.\r\n"),
    "quoted boundary": ('Multipart/Form-Data; charset=utf-8; Boundary="x"', lambda p: form((NAMED, p))),
    "JSON": ("application/json; charset=utf-8", lambda p: instances({"data": encode(p).decode()})),
    "JSON without a type": (None, lambda p: instances({"b64": encode(p).decode()})),
    "curl -d of JSON": (URLENCODED, lambda p: b"\n " + instances({"data": encode(p).decode()})),
    "JSON as text, with a mark": ("text/json", lambda p: b"\xef\xbb\xbf" + instances({"data": encode(p).decode()})),
    "text as an instance": ("application/json", lambda p: instances(encode(p).decode())),
    "TensorFlow Serving": ("application/json", lambda p: instances({"image_bytes": {"b64": encode(p).decode()}})),
    "any key": ("application/json", lambda p: instances({"image": "data:image/png;base64," + encode(p).decode()})),
}


def instances(*values: object) -> bytes:
    return json.dumps({"instances": values}).encode()


@pytest.mark.parametrize("name", BODIES)
def test_picture_is_found_however_it_is_sent(name: str, client: FlaskClient, pcam_example: bytes) -> None:
    kind, make_body = BODIES[name]
    headers = basic() | ({"Content-Type": kind} if kind is not None else {})
    bare, answer = (
        client.post(PATH, data=body, headers=sent).get_json()
        for body, sent in ((pcam_example, basic()), (make_body(pcam_example), headers))
    )
    assert answer["probabilities"] == bare["probabilities"]
    assert answer["input"] == bare["input"]


@pytest.mark.parametrize("kind", [URLENCODED, "image/png", None])
@pytest.mark.parametrize("example", ["pcam_example", "isic_example"])
def test_picture_that_curl_has_spoilt_is_named(
    kind: str | None, example: str, client: FlaskClient, request: pytest.FixtureRequest
) -> None:
    picture: bytes = request.getfixturevalue(example)
    status, message = post(client, picture.translate(None, b"\r\n\0"), kind)
    assert status == 400
    assert "sent with -d" in message
    assert "-T patch.png or --data-binary" in message


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (form((UNNAMED, b"text"), (NOBODY_CHOSE, b"")), FORM, r"The form holds no file; send the picture as a file pa"),
        (form(), FORM, r"The form holds no file; "),
        (b"image=text&other", URLENCODED, r"The form holds no file; "),
        (
            form((NAMED + b"\r\nContent-Transfer-Encoding: quoted-printable", b"=89PNG")),
            FORM,
            r"A part of the form has a",
        ),
        (
            form((NAMED + b"\r\nContent-Transfer-Encoding: base64", b"\x89PNG")),
            FORM,
            r"A part of the form is not base6",
        ),
        (form((NAMED, b"x")), "multipart/form-data", r"The Content-Type of the form names no boundary; "),
        (
            form((NAMED, b"x")),
            "multipart/form-data; boundary=y",
            r"The form is malformed: the boundary that its Conten",
        ),
        (form((NAMED, b"x"))[:-7], FORM, r"The form is malformed: its last boundary is missing; "),
        (
            b"--x\r\nContent-Type: image/png\r\n\r\nx\r\n--x--\r\n",
            FORM,
            r"The form is malformed: a part of it has no Cont",
        ),
        (form((NAMED, b"x"))[:20], FORM, r"The form is malformed: a part of it has no Content-Disposition; "),
        (
            form((NAMED + b"\r\nX: " + b"x" * 99_000, b"")),
            FORM,
            rf"The head of a part .* longer than {MAX_HEAD_BYTES} b",
        ),
        (b"x" * 99_000, FORM, r"The form is malformed: the boundary that its Content-Type names is not in the body; "),
        (b"&" * MAX_PAIRS + b"a=&", URLENCODED, rf"The form has more than {MAX_PAIRS} fields"),
        (instances({"data": "", "b64": ""}), None, r"instances\[0\] holds no data; send "),
        (instances({"image": {"b64": "%"}}), None, r"instances\[0\]\.image\.b64 is not base64; "),
        (instances({}), None, r"instances\[0\] holds no data; send "),
        (b"data:image/png;base64,%", None, r"The body is not base64; "),
    ],
)
def test_body_without_a_picture_is_told_what_it_lacks(
    body: bytes, kind: str | None, message: str, client: FlaskClient
) -> None:
    status, told = post(client, body, kind)
    assert status == 400
    assert re.match(message, told), told


FIELD = b'Content-Disposition: form-data; name="%b"'


@pytest.mark.parametrize("path", [PATH, PATH.replace("predictions", "explanations"), "/models/pcam-classification"])
@pytest.mark.parametrize(("name", "value"), [(b"target", b"normal"), (b"unfit", b"answer")])
def test_parameter_of_the_url_in_a_form_is_named(
    path: str, name: bytes, value: bytes, client: FlaskClient, pcam_example: bytes
) -> None:
    bodies = {
        form((NAMED, pcam_example), (FIELD % name, value)): FORM,
        form((FIELD % name, value), (NAMED, pcam_example)): FORM,
        b"image=" + quote_plus(encode(pcam_example)).encode() + b"&%b=%b" % (name, value): URLENCODED,
        b"%b=%b" % (name, value): URLENCODED,
    }
    for body, kind in bodies.items():
        answer = client.post(path, data=body, headers=basic() | {"Content-Type": kind})
        told = f"{name.decode()} goes into the URL, not into the form: ?{name.decode()}={value.decode()}"
        assert (answer.status_code, answer.get_json()["message"]) == (400, told)


def test_parameter_of_the_url_in_a_form_is_shown_shortened_and_escaped(client: FlaskClient) -> None:
    status, told = post(client, form((FIELD % b"target", b"a b\n<" + b"x" * 9000)), FORM)
    assert status == 400
    assert told.endswith("?target=a%20b%0A%3C" + "x" * 29 + "...")


def test_other_fields_beside_a_picture_and_a_picture_of_that_name_are_taken(
    client: FlaskClient, pcam_example: bytes
) -> None:
    for part in ((FIELD % b"target_size", b"96"), (FIELD % b"note", b"target"), (FIELD % b"target", pcam_example)):
        answer = client.post(PATH, data=form((NAMED, pcam_example), part), headers=basic() | {"Content-Type": FORM})
        assert answer.status_code == 200


def test_other_forms_than_those_of_files_are_named(client: FlaskClient) -> None:
    status, message = post(client, form((NAMED, b"x")), "multipart/related; boundary=x")
    assert (status, message[:52]) == (415, "Of multipart bodies multipart/form-data alone is tak")


@pytest.mark.parametrize("kind", [None, URLENCODED, "application/octet-stream"])
def test_form_that_is_not_called_one_is_named(kind: str | None, client: FlaskClient, pcam_example: bytes) -> None:
    status, told = post(client, form((NAMED, pcam_example)), kind)
    assert (status, told[:17]) == (415, "The body is a for")


@pytest.mark.parametrize("coding, status", [("", 200), ("identity", 200), ("base64", 415), ("utf-8", 415)])
def test_what_is_no_compression_is_named(coding: str, status: int, client: FlaskClient, pcam_example: bytes) -> None:
    answer = client.post(PATH, data=pcam_example, headers=basic() | {"Content-Encoding": coding})
    assert answer.status_code == status
    assert status == 200 or f"Content-Encoding says {coding}; " in answer.get_json()["message"]


@pytest.mark.parametrize("count", [65, 64 + MAX_FIELDS + 1, 200])
def test_too_many_pictures_are_told_the_limit_and_its_setting(
    count: int, client: FlaskClient, pcam_example: bytes
) -> None:
    many = form(*[(NAMED, pcam_example)] * count)
    json_body = instances(*[encode(pcam_example).decode()] * count)
    for body, kind in ((many, FORM), (json_body, "application/json")):
        status, message = post(client, body, kind)
        assert status == 400
        assert "SCANCER_MAX_IMAGES" in message
        assert "at most 64" in message


def test_named_file_that_is_empty_has_its_error_in_its_place(client: FlaskClient, pcam_example: bytes) -> None:
    body = form((NAMED, pcam_example), (NAMED.replace(b"a.png", b"b.png"), b""), (NOBODY_CHOSE, b""))
    answer = client.post(PATH, data=body, headers=basic() | {"Content-Type": FORM}).get_json()
    good, empty = answer["predictions"]
    assert good["input"]["format"] == "PNG"
    assert (empty["code"], empty["message"]) == (400, "The body is empty; send one picture.")


def test_large_part_keeps_every_byte(client: FlaskClient) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((700, 700), 50).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 2 * PIECE_BYTES
    answer = client.post(PATH, data=form((UNNAMED, buffer.getvalue())), headers=basic() | {"Content-Type": FORM})
    assert answer.get_json()["input"]["width_px"] == 700  # the checksums of its rows fit
