"""Reads forms as clients write them: `multipart/form-data`, and the urlencoded ones of `curl -d`."""

import codecs
from collections.abc import Iterator
from copy import copy
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from werkzeug.datastructures import Headers
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData, State

from app.base64_fields import PICTURE, decode_base64_bytes, unwrap_picture
from app.config.settings import KIB
from app.errors import AnsweredError, BadRequestError
from app.manifest.bounds import show
from app.pipeline.decoding.decode import is_picture
from app.pipeline.decoding.foreign_formats import CONTROL

MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
PIECE_BYTES, MAX_HEAD_BYTES = 8 * KIB, 8 * KIB
MAX_FIELDS, MAX_PAIRS = 16, 1000
"""Parts of a form beside its pictures, and fields of an urlencoded one."""
URL_PARAMETERS = ("target", "unfit")
"""What a prediction and an explanation read from the URL alone; in a form they would be passed over without a word."""
A_PART = "A part of the form"
SEND_A_FILE = "send the picture as a file part, e.g. -F image=@patch.png"
NO_BOUNDARY = "The Content-Type of the form names no boundary; let the client write that header by itself."
FAULTS = {
    State.PREAMBLE: "the boundary that its Content-Type names is not in the body",
    State.PART: "a part of it has no Content-Disposition",
}
"""What is wrong with a form, by where its decoder stopped."""


class FormPart(NamedTuple):
    """A part of a form. `filename` is None if the part has none; both names are the caller's, and are never logged."""

    name: str
    filename: str | None
    type: str | None
    encoding: str
    value: bytes

    @property
    def is_unused(self) -> bool:
        """Whether it is what a browser sends for a file that nobody chose."""
        return self.filename == "" and not self.value

    @property
    def is_file(self) -> bool:
        """Whether it may be a picture: it has a file name, or is no text. Of many clients files have no name, and texts
        are in the encoding of their system.
        """
        if self.filename or is_picture(self.value):
            return True
        is_named_text = (self.type or "").lower().startswith("text/")
        return not is_named_text and CONTROL.search(self.value) is not None

    def decode(self) -> bytes:
        """Undo the `Content-Transfer-Encoding` base64; raises `BadRequestError` for a file in another one."""
        if self.encoding == "base64":
            return decode_base64_bytes(self.value, A_PART)
        if self.encoding in ("", "binary", "8bit", "7bit") or not self.filename:
            return self.value
        raise BadRequestError(f"{A_PART} has a Content-Transfer-Encoding that is not taken; send the file as it is.")


class FormDecoder(MultipartDecoder):
    """Werkzeug's decoder, for file names of any encoding: some clients write them in that of their system."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        return super()._parse_headers(data.decode(errors="replace").encode())


def read_form(body: bytes, boundary: str, max_images: int) -> list[FormPart]:
    """Read the parts of a form, in order. Raises BadRequestError for too many, or a malformed form."""
    if not boundary:
        raise BadRequestError(NO_BOUNDARY)
    parts, most = [], max_images + MAX_FIELDS
    decoder = FormDecoder(boundary.encode("latin-1", "replace"))
    try:
        for part in decode_parts(decoder, body):
            parts.append(part)
            if len(parts) > most:
                raise BadRequestError(
                    f"The form has more than {most} parts; at most {max_images} pictures (SCANCER_MAX_IMAGES) and "
                    f"{MAX_FIELDS} other fields are taken."
                )
    except ValueError:
        fault = FAULTS.get(decoder.state, "its last boundary is missing")
        raise BadRequestError(f"The form is malformed: {fault}; {SEND_A_FILE}.") from None
    return parts


def decode_parts(decoder: MultipartDecoder, body: bytes) -> Iterator[FormPart]:
    """Yield the parts of a form. Raises ValueError if it is malformed, BadRequestError for a long head of a part."""
    head: Field | File = Field("", Headers())
    value = bytearray()
    for start in range(0, len(body) + PIECE_BYTES, PIECE_BYTES):
        decoder.receive_data(body[start : start + PIECE_BYTES] if start < len(body) else None)
        while not isinstance(event := decoder.next_event(), (NeedData, Epilogue)):
            if isinstance(event, (Field, File)):
                head, value = event, bytearray()
            elif isinstance(event, Data):
                value += event.data
                if not event.more_data:
                    yield make_part(head, bytes(value))
        if decoder.state is State.PREAMBLE and len(decoder.buffer) > MAX_HEAD_BYTES:
            raise ValueError("no boundary comes")
        if decoder.state in FAULTS and len(decoder.buffer) > MAX_HEAD_BYTES:
            raise BadRequestError(f"The head of a part of the form is longer than {MAX_HEAD_BYTES} bytes.")


def make_part(head: Field | File, value: bytes) -> FormPart:
    """Make a part of its head and value."""
    filename = head.filename if isinstance(head, File) else None
    encoding = head.headers.get("Content-Transfer-Encoding", "").strip().lower()
    return FormPart(head.name or "", filename, head.headers.get("Content-Type"), encoding, value)


def find_pictures(parts: list[FormPart]) -> list[bytes | AnsweredError]:
    """Find the pictures of a form, in order: its files, and texts that are pictures in base64.

    An empty part without a file name is one that a browser sends for a file nobody chose. In place of a part that
    cannot be decoded stands its error. Raises `BadRequestError` if there is none, and for a parameter of the URL.
    """
    found: list[bytes | AnsweredError] = []
    for part in parts:
        if part.is_file or PICTURE.match(part.value):
            try:
                found.append(unwrap_picture(part.decode(), A_PART))
            except BadRequestError as error:
                found.append(copy(error))  # without its traceback, which would keep the form
        elif part.name in URL_PARAMETERS:
            value = show(quote(part.value[:PIECE_BYTES]))
            raise BadRequestError(f"{part.name} goes into the URL, not into the form: ?{part.name}={value}")
    if not found:
        raise BadRequestError(f"The form holds no file; {SEND_A_FILE}.")
    return found


def find_urlencoded_pictures(body: bytes) -> list[bytes | AnsweredError]:
    """Find the pictures of what came as an urlencoded form: in its fields, as they are or in base64, or the body as it
    is or in base64. Raises `BadRequestError` if there is none, or for too many fields.
    """
    if not body or not is_text(body):  # `curl --data-binary` names every body so
        return [body]
    fields = [("", body)]
    if not PICTURE.match(body):
        # In base64 an unquoted plus sign is meant as one; in a picture that was encoded whole it stands for a space.
        pairs = [(name.decode(errors="replace"), text) for name, text in read_pairs(body)]
        fields = [(name, text if is_picture(text) else text.replace(b" ", b"+")) for name, text in pairs]
    return find_pictures([FormPart(name, None, None, "", text) for name, text in fields])


def read_pairs(body: bytes) -> list[tuple[bytes, bytes]]:
    """Read names and values of an urlencoded form; a pair without `=` is skipped. Raises BadRequestError for many."""
    if body.count(b"&") > MAX_PAIRS:
        raise BadRequestError(f"The form has more than {MAX_PAIRS} fields.")
    pairs = [pair.split(b"=", 1) for pair in body.replace(b"+", b" ").split(b"&") if b"=" in pair]
    return [(unquote(name), unquote(value)) for name, value in pairs]


def unquote(text: bytes) -> bytes:
    """Undo percent-encoding, a piece at a time: `unquote_to_bytes` makes a list of what stands between the escapes."""
    parts, start = [], 0
    while start < len(text):
        end = start + PIECE_BYTES
        cut = text.rfind(b"%", end - 2, end)  # an escape stays in one piece
        end = cut if cut > start else end
        parts.append(unquote_to_bytes(text[start:end]))
        start = end
    return b"".join(parts)


def is_text(body: bytes) -> bool:
    """Whether a body is UTF-8 without zero bytes, and so no picture."""
    if b"\0" in body:
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), PIECE_BYTES):  # as a whole, one rare character makes it four times as large
            decoder.decode(body[start : start + PIECE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
