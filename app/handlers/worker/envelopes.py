"""Service envelopes: the body of a request wraps a handler's input, and the answer wraps its output.

Their names and shapes are TorchServe's. They are opened and closed in the handler's process, around its `handle`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from app.base64_fields import decode_base64
from app.config.setting_types import NO_ENVELOPE
from app.errors import BadRequestError

BYTES = "BYTES"
# By numpy's name of an element's type: the Open Inference Protocol's.
DATATYPES = {f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
DATATYPES |= {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"}
Close = Callable[[list[Any]], Any]


class Opened(NamedTuple):
    """The handler's rows for a request; `close` makes the answer from their items, None if the item is the answer."""

    rows: list[Any]
    close: Close | None = None


class Wrapped(NamedTuple):
    """The items of one request, and the function that makes its answer from them."""

    close: Close
    items: list[Any]


class Asked(NamedTuple):
    """What an answer may state about its request and model; `model` is that part of the archive's manifest."""

    request_id: str
    is_explained: bool
    model: Mapping[str, Any]


def open_none(row: dict[str, Any], _: Asked) -> Opened:
    """Hand a request over as it is."""
    return Opened([row])


def open_body(row: dict[str, Any], _: Asked) -> Opened:
    """Hand over the body alone, without its key."""
    return Opened([row.get("data") or row.get("body")])


def open_json(row: dict[str, Any], _: Asked) -> Opened:
    """Open `{"instances": […]}`, with bytes as `{"b64": "…"}`; the answer is `{"predictions": […]}` as text."""
    given = read_list(row, "instances")
    instances = [read_instance(instance, f"instances[{index}]") for index, instance in enumerate(given)]
    return Opened(instances, lambda items: json.dumps({"predictions": items}))


def open_kserve(row: dict[str, Any], asked: Asked) -> Opened:
    """Open KServe v1's `{"instances": […]}`; the answer is `{"predictions": […]}`, or `{"explanations": […]}`."""
    key = "explanations" if asked.is_explained else "predictions"
    return Opened(read_list(row, "instances"), lambda items: {key: items})


def open_kserve_v2(row: dict[str, Any], asked: Asked) -> Opened:
    """Open the tensors of the Open Inference Protocol; the answer's have the names of the inputs, in order."""
    document = read_document(row)
    tensors = [read_tensor(tensor) for tensor in read_list(row, "inputs")]
    given = document.get("id")
    head = {
        "id": given if isinstance(given, str) and given.strip() else asked.request_id,
        "model_name": asked.model["modelName"],
        "model_version": asked.model["modelVersion"],
    }
    names = [tensor["name"] for tensor in tensors]
    return Opened(tensors, lambda items: head | {"outputs": write_tensors(names, items)})


OPENERS: dict[str, Callable[[dict[str, Any], Asked], Opened]] = {
    NO_ENVELOPE: open_none,
    "body": open_body,
    "json": open_json,
    "kserve": open_kserve,
    "kservev2": open_kserve_v2,
}


def read_document(row: dict[str, Any]) -> dict[str, Any]:
    """Read the JSON object that a request holds, whichever content type it came with; raises `BadRequestError`."""
    value = row.get("data") or row.get("body") or row
    if isinstance(value, (bytes, bytearray, str)):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRequestError("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise BadRequestError("The body must be a JSON object.")
    return value


def read_list(row: dict[str, Any], key: str) -> list[Any]:
    """Read a list that a request holds; raises `BadRequestError`."""
    found = read_document(row).get(key)
    if not isinstance(found, list) or not found:
        raise BadRequestError(f'The JSON holds no {key}; send {{"{key}": […]}}.')
    return found


def read_instance(instance: Any, place: str) -> Any:
    """Decode an instance that is `{"b64": "…"}`, or those members of an instance that are."""
    if not isinstance(instance, dict):
        return instance
    if set(instance) == {"b64"}:
        return decode_base64(instance["b64"], f"{place}.b64")
    return {
        name: decode_base64(value["b64"], f"{place}.{name}.b64")
        if isinstance(value, dict) and set(value) == {"b64"}
        else value
        for name, value in instance.items()
    }


def read_tensor(tensor: Any) -> dict[str, Any]:
    """Bring an input's data to its shape, as nested lists; of BYTES the first counts. Raises `BadRequestError`."""
    import numpy as np  # only this envelope needs it

    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str) or not tensor.get("data"):
        raise BadRequestError("An input must be an object with name, datatype, shape and data.")
    data, shape = tensor["data"], tensor.get("shape")
    if not isinstance(data, list):
        raise BadRequestError("The data of an input must be a list.")
    if tensor.get("datatype") == BYTES:
        return tensor | {"data": data[0]}
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise BadRequestError("The shape of an input must be a list of whole numbers above 0.")
    try:
        return tensor | {"data": np.array(data).reshape(shape).tolist()}
    except (TypeError, ValueError):
        raise BadRequestError("The data of an input are not as many as its shape says.") from None


def write_tensors(names: Sequence[str], items: Sequence[Any]) -> list[dict[str, Any]]:
    """Write items as flat tensors, texts and objects as BYTES; raises `ValueError` or `TypeError` if that cannot be."""
    import numpy as np  # as above

    if len(items) > len(names):
        raise ValueError("there are more outputs than inputs to name them after")
    tensors = []
    for name, item in zip(names, items, strict=False):
        values = np.array(item).flatten()
        datatype = BYTES if values.dtype.kind in "OU" else DATATYPES.get(values.dtype.name)
        if datatype is None:
            raise TypeError("the protocol has no such element")
        tensors.append({"name": name, "datatype": datatype, "data": values.tolist(), "shape": [values.size]})
    return tensors


def share_out(items: Any, opened: Sequence[Opened]) -> Any:
    """Give each request the items of its own rows; all requests came out of the same envelope.

    What is no list, or empty, or needs no closing, stays as it is. A wrong number of items makes an empty list.
    """
    if not isinstance(items, list) or not items or opened[0].close is None:
        return items
    if len(opened) == 1:  # of any length: a handler may make one answer of all rows
        return [Wrapped(opened[0].close, items)]
    if len(items) != sum(len(each.rows) for each in opened):
        return []
    rest = iter(items)
    return [Wrapped(each.close, [next(rest) for _ in each.rows]) for each in opened if each.close is not None]
