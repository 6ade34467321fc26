"""Answers of handlers, as an HTTP worker, the manager and a handler's process pass them on."""

from typing import Any

WORKER_DIED = "Worker died."
INVALID = "Invalid model predict output"
FAULT = "InternalServerException"
"""TorchServe's type of all errors of handlers, also of those whose status a handler chooses."""
NO_CAPTUM = "captum, which explains predictions, is not installed on the server."
PART = "part"
"""Key in the header of a message that is not the last of its answer."""
Answer = tuple[dict[str, Any], bytes]
"""Header and body. The header has a `status`; that of a failed answer has an `error` and may have its `type`."""


def fail(status: int, message: str) -> Answer:
    """Make the answer to a request that failed."""
    return {"status": int(status), "error": message}, b""
