"""How a request changes the models: not from another site's page, through the state store, followed by every worker."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from flask import request

from app.api.request.services import facts, note_audit, services
from app.errors import (
    ConflictError,
    ForbiddenError,
    FrameworkMissingError,
    InvalidModelError,
    ModelExistsError,
    ModelFolderError,
    ModelStartError,
    NotCompiledNowError,
    ProcessStartError,
    ServiceUnavailableError,
    StateStoreError,
    UnloadTimeoutError,
)
from app.registry.model_changes import Change, ModelChanges
from app.registry.model_entry import State
from app.state.worker_reports import read_reports

FOLLOW_TIMEOUT_S, LOOK_S = 120, 0.02


def refuse_other_sites() -> None:
    """Refuse a change that a page of another site asks for: a browser would send the password by itself.

    Where the browser says whose page asks, `Origin` does not count: that is `null` for a form of our own pages, whose
    policy sends no referrer.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    is_foreign = bool(origin) and str(origin).partition("://")[2] != request.host
    if is_foreign if site is None else site not in ("none", "same-origin"):
        raise ForbiddenError("Changes are not taken from pages of other sites.")


@contextmanager
def lend_changes() -> Iterator[ModelChanges]:
    """Lend what changes the state store; see `translate_errors`."""
    with translate_errors():
        yield services().changes


@contextmanager
def translate_errors() -> Iterator[None]:
    """Answer 400 for a model that is not taken, 409 where its place is taken, 500 or 503 for a fault of the server."""
    try:
        yield
    except FrameworkMissingError as error:
        raise ModelStartError(error.message) from error
    except (NotCompiledNowError, ProcessStartError) as error:
        raise ServiceUnavailableError(error.message) from error
    except ModelFolderError as error:
        make_error = ConflictError if isinstance(error, ModelExistsError) else InvalidModelError
        raise make_error(error.message) from error
    except StateStoreError as error:
        raise ServiceUnavailableError("The state store cannot be used; nothing is known to have changed.") from error


def note(change: Change, action: str) -> Change:
    """Note for the log and the audit trail what a request has done to which version."""
    facts().model, facts().version = change.key
    note_audit(action, "/".join(change.key))
    return change


def await_workers(change: Change, unseen_s: float = 0.0) -> bool:
    """Whether the version is ready in all workers, once they followed; `UnloadTimeoutError` after two minutes.

    `unseen_s` is how long a worker may take to see a folder that was just put among the models.
    """
    instance, label = services().settings.instance, "/".join(change.key)
    started = time.monotonic()
    while (waited_s := time.monotonic() - started) < FOLLOW_TIMEOUT_S:
        reports = read_reports(instance)
        states = {report.states.get(label) for report in reports}
        have_followed = all(report.generation >= change.generation for report in reports)
        is_unseen = None in states and waited_s < unseen_s
        if have_followed and not is_unseen and not states & {State.LOADING, State.UNLOADING}:
            return states <= {State.READY}
        time.sleep(LOOK_S)
    raise UnloadTimeoutError(f"Timed out while cleaning resources: {change.key[0]}")
