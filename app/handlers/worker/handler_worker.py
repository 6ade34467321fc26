"""The process that runs a handler: `python -m app.handlers.worker.handler_worker DESCRIPTOR`, started by a pool.

It confines itself, loads the model, says so, and answers batches until the other end of its socket goes.
"""

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.config.setting_types import NO_ENVELOPE
from app.errors import BadRequestError
from app.handlers.handler_answers import Answer
from app.handlers.handler_archive import HandlerArchive
from app.handlers.worker.envelopes import OPENERS, Asked, Opened, share_out
from app.handlers.worker.handler_batch import encode_item, make_answers, make_data, make_failures, make_header, refuse
from app.handlers.worker.handler_loading import HandleFunction, load_handler, make_context, prepare_path
from app.processes.confinement import confine
from app.processes.frames import PARTS, Channel

MAX_REASON_LENGTH = 500
TRUE = "True"


class HandlerService:
    """A loaded handler; `send` sends a message before that of the answers."""

    def __init__(self, archive: HandlerArchive, send: Callable[[Mapping[str, Any], Sequence[bytes]], None]) -> None:
        self._archive = archive
        self._send = send
        self._lock = threading.Lock()
        self._receivers: dict[tuple[int, str], int] = {}
        self._context = make_context(archive)
        self._handle: HandleFunction = load_handler(archive, self._context)
        self._context.send_parts = self._send_parts

    def answer(
        self, requests: Sequence[Mapping[str, Any]], blobs: Sequence[bytes]
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Answer a batch. The reply tells where the handler failed, not what it said: that may quote data.

        A request that is not in its envelope is refused, and the handler sees the others alone.
        """
        answers: dict[int, Answer] = {}
        opened: dict[int, Opened] = {}
        for place, (request, row) in enumerate(zip(requests, make_data(requests, blobs), strict=True)):
            try:
                opened[place] = self._open(request, row)
            except BadRequestError as error:
                answers[place] = refuse(error.message)
        fault = None
        if opened:
            self._receivers = {(index, requests[place]["id"]): place for index, place in enumerate(opened)}
            made, fault = self._answer_opened([requests[place] for place in opened], list(opened.values()))
            with self._lock:  # no part is sent once the answers are made
                self._receivers = {}
            answers.update(zip(opened, made, strict=True))
        headers = [answers[place][0] for place in range(len(requests))]
        bodies = [answers[place][1] for place in range(len(requests))]
        return {"answers": headers, "fault": fault, "metrics": self._context.metrics.take()}, bodies

    def _open(self, request: Mapping[str, Any], row: dict[str, Any]) -> Opened:
        """Take a request out of its envelope; one for the handler's own description has none."""
        headers = request["headers"]
        name = NO_ENVELOPE if headers.get("describe") == TRUE else self._archive.envelope
        return OPENERS[name](row, Asked(request["id"], headers.get("explain") == TRUE, self._archive.manifest["model"]))

    def _answer_opened(
        self, requests: Sequence[Mapping[str, Any]], opened: Sequence[Opened]
    ) -> tuple[list[Answer], str | None]:
        from ts.context import RequestProcessor

        self._context.request_ids = {index: request["id"] for index, request in enumerate(requests)}
        self._context.metrics.request_ids = self._context.request_ids
        self._context.request_processor = [RequestProcessor(request["headers"]) for request in requests]
        try:
            items = self._handle([row for each in opened for row in each.rows], self._context)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises is its callers' answer
            return make_failures(error, len(requests)), locate(error)
        answers = make_answers(share_out(items, opened), self._context, len(requests))
        return answers, next((header["error"] for header, _ in answers if "error" in header), None)

    def _send_parts(self, parts: Mapping[int, tuple[str, Any]]) -> None:
        """Send parts of answers by a request's place and id; those of an earlier batch, made too late, are dropped."""
        bodies = {index: encode_item(item) for index, (_, item) in parts.items()}
        with self._lock:
            places = {index: self._receivers.get((index, request_id)) for index, (request_id, _) in parts.items()}
            mine = [index for index, place in places.items() if place is not None]
            if mine:
                headers = [[places[index], make_header(self._context, index)] for index in mine]
                self._send({PARTS: headers}, [bodies[index] for index in mine])


def locate(error: BaseException) -> str:
    """Say of which type an error is and where it was raised, and nothing that it says itself."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:]]
    return f"{type(error).__name__} at {' > '.join(places)}"


def serve(channel: Channel) -> None:
    """Load the handler that the first message names, then answer batches."""
    channel.connection.set_inheritable(False)  # what the handler starts has no part in it, nor what it forks
    os.register_at_fork(after_in_child=lambda: os.close(channel.connection.detach()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the manager says when it is over, and means it
    order, _ = channel.receive()
    archive = HandlerArchive.from_json(order["archive"])
    in_force = confine(order["memory_bytes"])
    os.chdir(archive.path)
    prepare_path(archive.path)
    try:
        service = HandlerService(archive, channel.send)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a handler raises is the reason
        # No request's data is there yet, so the error's own words may be told.
        channel.send({"error": f"{type(error).__name__}: {error}"[:MAX_REASON_LENGTH], "at": locate(error)})
        return
    channel.send({"ready": True, "in_force": in_force})
    while True:
        try:
            batch, blobs = channel.receive()
        except EOFError:
            return
        channel.send(*service.answer(batch["requests"], blobs))


if __name__ == "__main__":
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))))
