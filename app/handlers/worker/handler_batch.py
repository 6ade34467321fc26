"""Turns messages into what a handler calls `data`, and its items into answers, as TorchServe does."""

import io
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from app.errors import BadRequestError
from app.handlers.handler_answers import INVALID, Answer, fail
from app.handlers.worker.envelopes import Wrapped


def make_data(requests: Sequence[Mapping[str, Any]], blobs: Sequence[bytes]) -> list[dict[str, Any]]:
    """Make a handler's `data`: a dict for each request, a key for each of its `parts`, whose bytes are `blobs` in
    order.
    """
    rest = iter(blobs)
    return [
        {part["name"]: decode_part(part.get("type"), next(rest)) for part in request["parts"]} for request in requests
    ]


def decode_part(content_type: str | None, value: bytes) -> Any:
    """Decode a part by its content type: JSON, text, or else bytes, which a handler may change."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    with suppress(ValueError, RecursionError):
        if kind == "application/json":
            return json.loads(value)
        if kind.startswith("text/"):
            return value.decode()
    return bytearray(value)


def make_answers(items: Any, context: Any, count: int) -> list[Answer]:
    """Turn the items that a handler returned for `count` requests into answers."""
    if not isinstance(items, list):
        return [fail(HTTPStatus.SERVICE_UNAVAILABLE, INVALID)] * count
    if len(items) != count:
        return [fail(HTTPStatus.SERVICE_UNAVAILABLE, "number of batch response mismatched")] * count
    return [make_answer(item, context, index) for index, item in enumerate(items)]


def make_answer(item: Any, context: Any, index: int) -> Answer:
    """Turn one item into an answer with the status and headers that the handler set for it."""
    try:
        body = encode_item(item)
    except (TypeError, ValueError, RuntimeError):  # numpy's and PyTorch's too
        return fail(HTTPStatus.SERVICE_UNAVAILABLE, "Unsupported model output data type.")
    return make_header(context, index), body


def make_header(context: Any, index: int) -> dict[str, Any]:
    """Make the header of an answer from the status and headers that the handler has set for it."""
    status, phrase = context.get_response_status(index)
    headers = [[str(name), str(value)] for name, value in context.get_response_headers(index).items()]
    return {"status": int(status), "phrase": str(phrase or ""), "headers": headers}


def encode_item(item: Any) -> bytes:
    """Return an item's bytes: text and bytes as they are, a tensor as `torch.save` writes it, others as JSON."""
    if isinstance(item, Wrapped):
        return encode_item(item.close(item.items))
    if isinstance(item, (bytes, bytearray)):
        return bytes(item)
    if isinstance(item, str):
        return item.encode()
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(item, torch.Tensor):
        buffer = io.BytesIO()
        torch.save(item, buffer)
        return buffer.getvalue()
    return json.dumps(item, indent=2).encode()


def refuse(message: str) -> Answer:
    """Make the answer to a malformed request, which no handler gets."""
    return fail(HTTPStatus.BAD_REQUEST, message)[0] | {"type": BadRequestError.type}, b""


def make_failures(error: BaseException, count: int) -> list[Answer]:
    """Answer requests whose handler raised an error; only a `PredictionException` shows callers its own text."""
    code, message = getattr(error, "error_code", None), getattr(error, "message", None)
    if type(error).__name__ == "PredictionException" and code is not None:
        return [fail(int(code), str(message))] * count
    if isinstance(error, MemoryError) or any(word in str(error) for word in ("CUDA", "DefaultCPUAllocator")):
        return [fail(HTTPStatus.INSUFFICIENT_STORAGE, "Out of resources")] * count
    return [fail(HTTPStatus.SERVICE_UNAVAILABLE, "Prediction failed")] * count
