"""Decodes base64 that stands in a request: in a field of JSON, in a form, or in place of a picture."""

import binascii
import re
from typing import Any

from app.errors import BadRequestError

DATA_URL = re.compile(rb"\s*+data:[^,]{0,1024},", re.IGNORECASE)
"""The head of a `data:` URL (RFC 2397), whose base64 may be percent-encoded."""
PICTURE = re.compile(rb"\s*+((?i:data:)|iVBORw0KGgo|[/_]9j[/_]|SUk[qr]A|TU0AK|Qk[0-3]|UklGR)")
"""How a text begins that is a picture in base64: with the first bytes of PNG, JPEG, TIFF, BMP or WebP."""
STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")  # RFC 4648, section 5: the alphabet that is safe in URLs
ESCAPES = {b"%%%02X" % ord(sign): sign for sign in (b"+", b"/", b"=", b"\r", b"\n", b" ")}
"""How signs of base64 stand in a URL. Others need no escape there, so no other is undone."""
WHITE_SPACE = b" \t\r\n\f\v"
LOST_PLUS = re.compile(rb"(?<!\S)(?:\S{4})*+\S{1,3}+ (?=\S)")
"""A space where no line of base64 ends, as its lines have a multiple of four characters: an unquoted `+` of a form."""
SEARCHED_BYTES = 1024 * 1024
"""Where a lost `+` is looked for. Of random digits every 64th is one."""
PIECE_BYTES = 64 * 1024
HELP = "send a file as `base64 FILE` writes it"


def decode_base64(text: Any, field: str) -> bytes:
    """Decode base64 as clients write it: in either alphabet, with white space, without padding, or as a `data:` URL.

    Raises `BadRequestError` with the field's place, e.g. `instances[2].data`, if the value is no text or no base64.
    """
    if not isinstance(text, str):
        raise BadRequestError(f"{field} must be a text: a file as base64.")
    return decode_base64_bytes(text.encode("ascii", "replace"), field)


def decode_base64_bytes(digits: bytes, field: str) -> bytes:
    """Decode base64 that was not made a `str`; otherwise as `decode_base64`."""
    if head := DATA_URL.match(digits):
        if not head[0].rstrip(b", ").lower().endswith(b";base64"):
            raise BadRequestError(f"{field} is a data URL without base64; {HELP}.")
        digits = undo_escapes(digits[head.end() :])
    digits = digits.strip(WHITE_SPACE)
    if b" " in digits and LOST_PLUS.search(digits, 0, SEARCHED_BYTES):
        raise BadRequestError(f"{field} holds spaces where base64 had a plus sign; percent-encode it, or {HELP}.")
    try:
        return decode_digits(digits)
    except ValueError:
        raise BadRequestError(f"{field} is not base64; {HELP}.") from None


def undo_escapes(digits: bytes) -> bytes:
    """Undo the percent-encoding of base64; what takes no list of its parts bounds the memory."""
    if b"%" in digits:
        for escape, sign in ESCAPES.items():
            digits = digits.replace(escape, sign).replace(escape.lower(), sign)
    return digits


def decode_digits(digits: bytes) -> bytes:
    """Decode base64 in pieces, so that other threads have their turn between them; raises `ValueError`."""
    text, decoded = bytearray(), bytearray()
    for start in range(0, len(digits), PIECE_BYTES):
        text += digits[start : start + PIECE_BYTES].translate(STANDARD_ALPHABET, WHITE_SPACE)
    text += b"=" * (-len(text) % 4)
    padding = text.find(b"=")
    if padding >= 0 and text[padding:].strip(b"="):
        raise ValueError("something follows the padding")
    for start in range(0, len(text), PIECE_BYTES):
        decoded += binascii.a2b_base64(text[start : start + PIECE_BYTES], strict_mode=True)
    return bytes(decoded)


def unwrap_picture(body: bytes, field: str) -> bytes:
    """Return the picture that a body holds as base64, or the body as it is; raises as `decode_base64`."""
    return decode_base64_bytes(body, field) if PICTURE.match(body) else body
