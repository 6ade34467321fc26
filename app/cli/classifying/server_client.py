"""Answers pictures by asking a server, one picture a request; no file name leaves this machine."""

import base64
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3

from app.cli.classifying.answer_table import Asked
from app.errors import PicturesError

BUSY = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
OF_THE_PICTURE = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
"""What a picture is refused with; another status says something of the service, and ends the run."""
MOST_FAULTS = 3
"""Pictures one after the other that the server may fail on (500): one alone is the picture's, more are the server's."""
PAUSES = urllib3.Retry(
    total=None,
    connect=8,
    read=3,
    status=30,
    other=0,
    redirect=False,
    status_forcelist=BUSY,
    backoff_factor=0.25,
    backoff_max=30,
)
"""Before a request is sent again: as long as `Retry-After` says, else longer each time."""
TIMEOUT = urllib3.Timeout(connect=10, read=150)
"""Seconds; a server gives a prediction up to 120."""


class ServerClient:
    """One version of a model at a server, asked over `jobs` connections.

    `login` is the user's name and password; None: the server asks nobody for them. Raises `PicturesError` if the server
    cannot be reached, refuses the user, or has no such model.
    Thread safety: `ask` may be called from any thread.
    """

    group = 1

    def __init__(self, url: str, name: str, login: tuple[str, str] | None, jobs: int, takes_unfit: bool) -> None:
        self.jobs, self._url = jobs, url.rstrip("/")
        headers = {"Accept": "application/json"}
        if login is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        self._faults = 0
        self._pool = urllib3.PoolManager(maxsize=jobs, block=True, headers=headers, timeout=TIMEOUT)
        model = self._send("GET", f"/models/{quote(name)}", PAUSES.new(connect=0))
        if "output" not in model:
            raise PicturesError(
                f"{self._url} does not serve {name} as a classifier: {model.get('message', 'see /models')}"
            )
        threshold = model["output"]["threshold"]
        self.asked = Asked(model["name"], model["version"], threshold, takes_unfit)
        path = f"/predictions/{quote(model['name'])}/{quote(model['version'])}"
        self._path = path + ("?unfit=answer" if takes_unfit else "")

    def ask(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        """Answer pictures; raises `PicturesError` if the server fails, or refuses more than a picture."""
        return [self._ask_one(path) for path in paths]

    def _ask_one(self, path: str) -> dict[str, Any]:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            return {"message": f"The file cannot be read: {error.strerror}."}
        return self._send("PUT", self._path, PAUSES, content)

    def _send(self, method: str, path: str, retries: urllib3.Retry, content: bytes | None = None) -> dict[str, Any]:
        """Send a request and return the answer's JSON, or that of a picture's error."""
        try:
            response = self._pool.request(method, self._url + path, body=content, retries=retries)
            is_refusal = content is not None and self._is_of_the_picture(response.status)
            answer = read_refusal(response) if is_refusal else response.json()
        except urllib3.exceptions.HTTPError as error:
            raise PicturesError(f"{self._url} does not answer: {describe(error)}") from error
        except ValueError as error:
            raise PicturesError(f"{self._url} is no Scancer API: its answer is no JSON") from error
        if response.status == HTTPStatus.UNAUTHORIZED:
            raise PicturesError(f"{self._url} does not know this user and password")
        if not isinstance(answer, dict):
            raise PicturesError(f"{self._url} is no Scancer API: its answer is no object of JSON")
        if response.status != HTTPStatus.OK and not is_refusal:
            raise PicturesError(f"{self._url} answers {response.status}: {answer.get('message', 'no reason is given')}")
        return answer

    def _is_of_the_picture(self, status: int) -> bool:
        self._faults = self._faults + 1 if status == HTTPStatus.INTERNAL_SERVER_ERROR else 0
        return status in OF_THE_PICTURE or 0 < self._faults <= MOST_FAULTS

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


def read_refusal(response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    """Read why a picture was refused; a proxy in between may say it in another form than the service."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("message"), str):
        return answer
    return {"message": f"The server, or a proxy before it, answers {response.status}."}


def describe(error: urllib3.exceptions.HTTPError) -> str:
    """Return the reason of a request that got no answer, without the pool that it went through."""
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        return str(error.reason).rpartition(": ")[2]
    return str(error)
