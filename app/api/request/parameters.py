"""The parameters of a management call, each read by its type: from the query, a JSON body or the fields of a form."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from flask import request

from app.api.request.bodies import read_body
from app.api.request.forms import MULTIPART, URLENCODED
from app.api.request.json_documents import read_in_turn, read_json
from app.errors import BadRequestError, OutOfBoundsError
from app.manifest.bounds import Bound, read_whole, refuse, show
from app.pipeline.patience import ENDLESS


class Parameters:
    """Parameters by name; every method raises `BadRequestError` for a value of a wrong type or out of bounds.

    A parameter that is empty or null counts as absent. One that nobody asks for is passed over, unless `require_known`
    was called; of one that was given twice, the first counts.
    """

    def __init__(self, given: Mapping[str, Any], repeated: Collection[str] = ()) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        self._repeated = repeated

    def extend(self, given: Mapping[str, Any]) -> "Parameters":
        """Return these parameters with others, which go first."""
        return Parameters(self._given | Parameters(given)._given, self._repeated)

    def require_known(self, known: Collection[str]) -> "Parameters":
        """Return these parameters; `BadRequestError` for one that is repeated, or that the call does not know."""
        for name in self._repeated:
            raise BadRequestError(f"{show(name)} is given more than once; give it once.")
        for name in self._given.keys() - set(known):
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"it knows {', '.join(sorted(known)) or 'none'}."
            raise BadRequestError(f"{show(name)} is no parameter of this call; {hint}")
        return self

    def text(self, name: str, max_bytes: int) -> str | None:
        """Return a text of at most so many bytes in UTF-8; None if it is absent. An empty one is there."""
        value = self._given.get(name)
        if value is not None and not (isinstance(value, str) and count_bytes(value) <= max_bytes):
            raise BadRequestError(refuse(name, value, f"a text of at most {max_bytes} bytes").message)
        return value

    def whole(self, name: str, bound: Bound) -> int | None:
        """Return a whole number; None if it is absent."""
        value = self._given.get(name, "")
        return None if value == "" else read_sent(name, value, bound)

    def page(self, name: str, bound: Bound, default: int) -> int:
        """Return a number that chooses a page; one that is not allowed counts as the default, as in TorchServe."""
        try:
            return read_whole(name, self._given[name], bound) if name in self._given else default
        except OutOfBoundsError:
            return default

    def truth(self, name: str, default: bool) -> bool:
        """Return whether a parameter is true; whatever is not `true`, in any case, is false, as in TorchServe."""
        return str(self._given.get(name, default)).lower() == "true"


def read_sent(name: str, value: object, bound: Bound) -> int:
    """Read a whole number that a caller sent; raises `BadRequestError` for another value, also for an empty text."""
    try:
        return read_whole(name, value, bound)
    except OutOfBoundsError as error:
        raise BadRequestError(error.message) from error


def count_bytes(text: str) -> float:
    """Count the bytes of a text in UTF-8; infinite for a text that UTF-8 cannot write, such as half of a pair."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return float("inf")


def read_query() -> Parameters:
    """The parameters of the request's query."""
    return Parameters(request.args.to_dict(), [name for name, values in request.args.lists() if len(values) > 1])


def read_parameters() -> Parameters:
    """The parameters of the query and of a JSON body, which go first; raises `BadRequestError` for a malformed body."""
    if request.mimetype in (MULTIPART, URLENCODED) and request.content_length and request.method != "POST":
        raise BadRequestError("Parameters stand in the query or in a JSON object; this body is a form.")
    if request.mimetype != "application/json" or not request.content_length:
        return read_query()
    with read_in_turn(request.content_length, ENDLESS):
        document = read_json(read_body(request))
    if not isinstance(document, dict):
        raise BadRequestError("The body is not a JSON object.")
    return read_query().extend(document)
