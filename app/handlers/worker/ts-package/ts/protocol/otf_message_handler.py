"""Answers in several parts."""

from collections.abc import Mapping, Sequence
from typing import Any


def send_intermediate_predict_response(
    ret: Sequence[Any],
    req_id_map: Mapping[int, str],
    message: str,  # noqa: ARG001  # TorchServe's parameter
    code: int,  # noqa: ARG001  # as above
    context: Any = None,
) -> None:
    """Send each request of the batch the next part of its answer; what `handle` returns is the last one.

    The first part takes status and headers along, as they are set by then.
    """
    context.send_parts({index: (request_id, ret[index]) for index, request_id in req_id_map.items()})
