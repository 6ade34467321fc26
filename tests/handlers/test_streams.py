"""Answers in parts, from the handler's process to the view: whose part is whose, and how many may come."""

import asyncio
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.config.settings import MIB
from app.handlers.client.handler_streams import AnswerStream
from app.handlers.client.pool_client import PoolClient
from app.handlers.handler_archive import HandlerArchive, read_archive
from app.handlers.manager import handler_process
from app.handlers.manager.handler_process import HandlerLostError, HandlerProcess
from app.pipeline.patience import Patience
from tests.conftest import basic
from tests.handlers.archives import make_archive
from tests.handlers.fixtures import Ask, ServeArchives

Start = Callable[..., HandlerArchive]
HANDLER = """
import threading, time
from ts.protocol.otf_message_handler import send_intermediate_predict_response

later = []

def handle(data, context):
    if data is None:
        return None
    orders = [row["body"] for row in data]
    ids = context.request_ids

    def send(index, part):
        send_intermediate_predict_response({index: part}, {index: ids.get(index)}, "ok", 200, context)

    for index, order in enumerate(orders):
        if order == "parts":
            send(index, "own ")
            time.sleep(0.1)
            send(index, "parts ")
        if order == "object":
            send(index, object())
        if order == "another":
            send(len(orders), "part")
        if order == "late":
            thread = threading.Thread(target=lambda: (time.sleep(0.1), send(0, "late "), later.append("sent")))
            thread.start()
        if order == "wait":
            while not later:
                time.sleep(0.01)
        if order == "header":
            context.set_response_header(index, "x-model", "a\\r\\nSet-Cookie: b")
            send(index, "one ")
    return [f"{order} of {len(orders)}" for order in orders]
"""


def open_answer(pools: PoolClient, archive: HandlerArchive, text: str) -> Any:
    request = {"id": str(uuid.uuid4()), "headers": {}, "parts": [{"name": "body", "type": "text/plain"}]}
    return pools.open(archive, request, [text.encode()], Patience(time.perf_counter() + 30))


def read(answer: Any) -> bytes:
    if not isinstance(answer, AnswerStream):
        body: bytes = answer[1]
        return body
    try:
        return b"|".join(answer)
    finally:
        answer.close()


def test_callers_of_one_batch_get_their_own_parts_and_one_that_leaves_costs_the_others_nothing(
    start: Start, pools: PoolClient
) -> None:
    archive = start(HANDLER, batchSize=3, maxBatchDelay=5000)

    def leave(text: str) -> bytes:
        answer = open_answer(pools, archive, text)
        next(iter(answer))  # so that it was in the batch
        answer.close()
        return b"left"

    with ThreadPoolExecutor(3) as threads:
        left = threads.submit(leave, "parts")
        asked = [threads.submit(lambda text: read(open_answer(pools, archive, text)), text) for text in ("parts", "x")]
    assert left.result() == b"left"
    assert [each.result() for each in asked] == [b"own |parts |parts of 3", b"x of 3"]


def test_parts_that_come_after_the_answer_are_nobodys(start: Start, pools: PoolClient) -> None:
    archive = start(HANDLER)
    assert read(open_answer(pools, archive, "late")) == b"late of 1"
    assert read(open_answer(pools, archive, "wait")) == b"wait of 1"  # until the late one was sent
    assert read(open_answer(pools, archive, "parts")) == b"own |parts |parts of 1"
    assert read(open_answer(pools, archive, "another")) == b"another of 1"


def test_part_that_cannot_be_sent_is_the_handlers_failure(start: Start, ask: Ask) -> None:
    archive = start(HANDLER)
    assert ask(archive, "object") == ({"status": 503, "error": "Prediction failed"}, b"")
    assert ask(archive, "x") == ({"status": 200, "phrase": "", "headers": []}, b"x of 1")


@pytest.mark.parametrize(("most", "is_lost"), [(9, True), (1000, False)])
def test_parts_together_are_no_longer_than_one_answer_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, is_lost: bool
) -> None:
    archive = read_archive(make_archive(tmp_path / "models", "m", "h.py", {"h.py": HANDLER}), "m", "1.0")
    request = {"id": "id-1", "headers": {}, "parts": [{"name": "body", "type": "text/plain"}]}
    parts: list[bytes] = []

    async def predict() -> None:
        handler = HandlerProcess(archive, 1024 * MIB, 1)
        await handler.start()
        monkeypatch.setattr(handler_process, "MAX_MESSAGE_BYTES", most)
        try:
            await handler.predict([request], [b"parts"], 30, lambda place, header, body: parts.append(body))
        finally:
            await handler.end()

    if is_lost:
        with pytest.raises(HandlerLostError, match="the parts are too long"):
            asyncio.run(predict())
    else:
        asyncio.run(predict())
    assert parts == [b"own ", b"parts "][: 1 if is_lost else 2]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, serve_archives: ServeArchives) -> FlaskClient:
    models = tmp_path_factory.mktemp("streams") / "models"
    make_archive(models, "m", "h.py", {"h.py": HANDLER.replace('row["body"]', 'row.get("body", row.get("text"))')})
    return serve_archives(models).test_client()


def test_header_that_is_not_sent_ends_the_answer_before_it_begins(client: FlaskClient) -> None:
    for _ in range(3):
        response = client.post("/predictions/m", data="header", content_type="text/plain", headers=basic())
        assert (response.status_code, response.json["message"]) == (503, "Invalid model predict output")
    with client.post("/predictions/m", data="parts", content_type="text/plain", headers=basic()) as response:
        assert (response.status_code, response.data) == (200, b"own parts parts of 1")
        assert response.headers["X-Model-Version"] == "1.0"


def test_protocol_that_knows_no_parts_gets_the_whole(client: FlaskClient) -> None:
    response = client.post("/v1/models/m:predict", json={"instances": [{"text": "parts"}]}, headers=basic())
    assert response.json == {"predictions": ["own parts parts of 1"]}


def test_handler_stays_lent_until_the_last_part(client: FlaskClient) -> None:
    handler = client.application.extensions["scancer"].registry.get("m").handler
    response = client.post("/predictions/m", data="parts", content_type="text/plain", headers=basic(), buffered=False)
    body = response.iter_encoded()
    assert next(body) == b"own "
    with ThreadPoolExecutor(1) as threads:
        retired = threads.submit(handler.retire, 10)
        time.sleep(0.05)
        assert not retired.done()
        assert b"".join(body) == b"parts parts of 1"
        response.close()
        retired.result(1)
