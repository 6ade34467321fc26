"""What the parts of the API share: the app's services, and what is known of the request at hand."""

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, current_app, g, request

from app.config.settings import Settings
from app.metrics import Metrics
from app.registry.model_changes import ModelChanges
from app.registry.model_follower import ModelFollower
from app.registry.serving_table import ServingTable

EXTENSION = "scancer"
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9-]{8,64}")
NOTICE = "Research use only. Not for diagnosis."


@dataclass(frozen=True)
class Services:
    """What `create_app` puts together once."""

    settings: Settings
    registry: ServingTable
    metrics: Metrics
    changes: ModelChanges
    follower: ModelFollower

    def install(self, app: Flask) -> None:
        """Make the services reachable from the app's views."""
        app.extensions[EXTENSION] = self


@dataclass(slots=True)
class RequestFacts:
    """What the log line and the metrics say of a request; views fill it in as they learn it.

    Attributes:
        request_id: the caller's `X-Request-ID` where it is 8 to 64 letters, digits and dashes, else a new one.
        model, version: of the model asked for, only once it is known to exist.
        outcome: class answered, or type of the error.
        images: how many pictures the request held.
        is_streamed: whether the answer is sent in parts, and ends some time after the view.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    user: str | None = None
    model: str | None = None
    version: str | None = None
    outcome: str | None = None
    images: int | None = None
    is_streamed: bool = False


def services() -> Services:
    """The services of the current app."""
    return cast(Services, current_app.extensions[EXTENSION])


def begin_facts() -> None:
    """Note when the current request began, and by which id it goes; called before anything else."""
    given = request.environ.get("HTTP_X_REQUEST_ID", "")
    g.facts = RequestFacts(given if REQUEST_ID_PATTERN.fullmatch(given) else str(uuid.uuid4()))


def facts() -> RequestFacts:
    """The facts of the current request."""
    return cast(RequestFacts, g.facts)
