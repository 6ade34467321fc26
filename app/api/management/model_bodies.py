"""Receives the model of a `POST /models` into a file: from the body, raw or in a form, or from a URL."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser

from app.api.request.bodies import refuse_compression
from app.config.settings import KIB, Settings
from app.errors import BadRequestError, BodyTooLargeError, ServiceUnavailableError
from app.exchange.quarantine import IncomingFile, open_incoming
from app.exchange.remote_source import open_remote
from app.manifest.bounds import show
from app.manifest.model_manifest import MAX_MANIFEST_BYTES
from app.pipeline.decoding.foreign_formats import HEAD_BYTES, is_text

if TYPE_CHECKING:
    from werkzeug.formparser import TStreamFactory

FORM = "multipart/form-data"
MANIFEST_FIELD, MANIFEST_SUFFIX = "manifest", ".toml"
MAX_ARRIVALS = 2
"""Models that may come over the network at a time, in each worker: each of them occupies a thread."""
PIECE_BYTES = 64 * KIB
MAX_FIELD_BYTES, MAX_PARTS, MAX_AROUND_BYTES = 2 * PIECE_BYTES, 32, 64 * KIB
"""Limits of a form: bytes of a field (at least the parser's buffer), number of parts, bytes beside the file."""
TOO_MUCH = "The form has too many parts, or too much beside its file; the archive's part needs a file name."
TEXT = (
    "The body is text, and no model; parameters stand in the query (POST /models?url=NAME.mar) or in JSON, as "
    "Content-Type: application/json says."
)
arrivals = threading.BoundedSemaphore(MAX_ARRIVALS)


class ModelBody:
    """A request's body, read piece by piece and counted; raises BodyTooLargeError above `limit` bytes."""

    def __init__(self, environ: dict[str, Any], limit: int) -> None:
        self._stream: IO[bytes] = environ["wsgi.input"]
        length = environ.get("CONTENT_LENGTH")
        self._is_open = length is None and bool(environ.get("wsgi.input_terminated"))
        self._left = limit if self._is_open else int(length or 0)
        self._limit = limit
        if self._left > limit:
            raise self._too_large()
        self._first = self._receive(PIECE_BYTES)
        self.is_empty, self.is_text = not self._first, is_text(self._first[:HEAD_BYTES])

    def read(self, size: int = PIECE_BYTES) -> bytes:
        """Return the next bytes, and none at the end; raises as `receive_model`."""
        piece, self._first = self._first[:size], self._first[size:]
        return piece or self._receive(size)

    def _receive(self, size: int) -> bytes:
        """Read on. Of a body of unknown length, one byte past the limit is asked for, to see whether there is one."""
        try:
            piece = self._stream.read(min(size, self._left + self._is_open))
        except (OSError, ParseException):
            raise BadRequestError("The body did not come to its end.") from None
        if len(piece) > self._left:
            raise self._too_large()
        self._left -= len(piece)
        if not piece and self._left and not self._is_open:
            raise BadRequestError("The body did not come to its end.")
        return piece

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"The model is larger than {self._limit} bytes.")


@contextmanager
def admit_arrival() -> Iterator[None]:
    """Count a model that comes over the network; raises `ServiceUnavailableError` if there are too many."""
    if not arrivals.acquire(blocking=False):
        raise ServiceUnavailableError("Too many models are on their way; try again later.")
    try:
        yield
    finally:
        arrivals.release()


@contextmanager
def receive_model(request: Request, settings: Settings) -> Iterator[tuple[IncomingFile, dict[str, str]] | None]:
    """Give the model of a request's body as a file, and the fields of its form; None if the body holds no model.

    A body of `application/json` always holds parameters. Raises BodyTooLargeError above `SCANCER_MAX_MODEL_BYTES`,
    BadRequestError for a broken body or form, UnsupportedMediaError for a compressed one, ServiceUnavailableError,
    ModelFolderError and DiskFullError.
    """
    is_form, limit = request.mimetype == FORM, settings.max_model_bytes
    if request.mimetype == "application/json":
        yield None
        return
    with admit_arrival():
        body = ModelBody(request.environ, limit + MAX_AROUND_BYTES * is_form)
        if body.is_empty:
            yield None
            return
        refuse_compression(request, "the archive")
        if not is_form and body.is_text:
            raise BadRequestError(TEXT)
        with open_incoming(settings) as file:
            fields = read_form(body, request.mimetype_params.get("boundary", ""), file) if is_form else {}
            while piece := body.read():
                file.write(piece)
            file.close()
            if file.size > limit:
                raise BodyTooLargeError(f"The model is larger than {limit} bytes.")
            yield file, fields


@contextmanager
def fetch_model(url: str, settings: Settings) -> Iterator[IncomingFile]:
    """Give the model at a URL as a file.

    Raises ModelNotFoundError for a URL that is not allowed, DownloadError, and others as `receive_model`.
    """
    with admit_arrival(), open_remote(url, settings) as file:
        yield file


class FormText(io.BytesIO):
    """The manifest of a form, in memory."""

    def write(self, data: Any) -> int:
        """Add the next bytes; raises `BadRequestError` at too many."""
        if self.tell() + len(data) > MAX_MANIFEST_BYTES:
            raise BadRequestError(f"The manifest is larger than {MAX_MANIFEST_BYTES} bytes.")
        return super().write(data)


class FormFile:
    """The file of a form, as werkzeug's parser expects it."""

    def __init__(self, file: IncomingFile) -> None:
        self.write = file.write

    def seek(self, place: int) -> None:
        """Do nothing: the parser rewinds the file, and nobody reads it from here."""


def read_form(body: ModelBody, boundary: str, file: IncomingFile) -> dict[str, str]:
    """Write the one file of a form; return its other fields. A second file `*.toml` is the manifest's field."""
    files: list[FormFile] = []
    texts: list[FormText] = []

    def open_file(filename: str | None = None, **_: object) -> IO[bytes]:
        if (filename or "").endswith(MANIFEST_SUFFIX) and not texts:
            texts.append(FormText())
            return texts[0]
        if files:
            raise BadRequestError("The form holds more than one file.")
        files.append(FormFile(file))
        return cast(IO[bytes], files[0])

    factory = cast("TStreamFactory", open_file)
    parser = MultiPartParser(factory, MAX_FIELD_BYTES, buffer_size=PIECE_BYTES, max_form_parts=MAX_PARTS)
    try:
        fields, _ = parser.parse(cast(IO[bytes], body), boundary.encode("latin-1", "replace"), None)
    except RequestEntityTooLarge:
        raise BadRequestError(TOO_MUCH) from None
    except ValueError:
        raise BadRequestError("The form is malformed.") from None
    if not files:
        raise BadRequestError("The form holds no file; send the archive as a file part, e.g. -F model=@model.mar.")
    for name, values in fields.lists():
        if len(values) > 1:
            raise BadRequestError(f"The form gives {show(name)} more than once; give it once.")
    try:
        return fields.to_dict() | ({MANIFEST_FIELD: texts[0].getvalue().decode()} if texts else {})
    except UnicodeDecodeError:
        raise BadRequestError("The manifest is not UTF-8 text.") from None
