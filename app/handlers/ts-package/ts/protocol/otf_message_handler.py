"""Answers in several parts."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.handlers.batch import encode_item


def send_intermediate_predict_response(
    ret: Sequence[Any],
    req_id_map: Mapping[int, str],
    message: str,  # noqa: ARG001  # TorchServe's parameter
    code: int,  # noqa: ARG001  # as above
    context: Any = None,
) -> None:
    """Add to the answer of each request; here all parts are sent together, with the last."""
    for index in req_id_map:
        context.intermediate.setdefault(index, []).append(encode_item(ret[index]))
