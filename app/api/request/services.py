"""What the rooms of the API share: the app's services, and the facts of the current request."""

import ipaddress
import random
import re
import time
import uuid
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from flask import current_app, request

from app.api.login.rate_limits import RateLimits
from app.api.login.sign_ins import SignIns
from app.config.setting_types import OWN_DATABASE, is_loopback_host
from app.config.settings import SERVER_IS_STOPPING, Settings
from app.errors import AnsweredError
from app.metrics import Metrics
from app.pipeline.served_model import Timing
from app.registry.model_changes import ModelChanges
from app.registry.model_entry import ModelEntry, State
from app.registry.model_follower import ModelFollower
from app.registry.model_registry import ModelRegistry
from app.registry.serving_table import ServingTable
from app.state.people.audit_trail import AuditEntry, AuditTrail
from app.state.people.users_table import FollowedUsers, UsersTable
from app.state.store_access import StoreAccess
from app.users import User, UserBook, UsersFile
from app.watch.kept_answers import KeptAnswers
from app.watch.shadowing import Shadowing

EXTENSION = "scancer"
FACTS = "scancer.facts"
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9-]{8,64}")
FORWARDING = frozenset(("HTTP_FORWARDED", *(f"HTTP_X_FORWARDED_{what}" for what in ("FOR", "PROTO", "HOST", "PREFIX"))))
"""What a trusted proxy adds to a request, in its environment."""
NOTICE = "Research use only. Not for diagnosis."


@dataclass(frozen=True)
class Services:
    """The parts that `create_app` makes once."""

    settings: Settings
    registry: ServingTable
    metrics: Metrics
    changes: ModelChanges
    limits: RateLimits
    follower: ModelFollower
    store: StoreAccess
    kept: KeptAnswers
    shadowing: Shadowing
    users: UserBook
    """Where users are changed; a server asks `followed` who they are, if its users are in a database."""
    followed: FollowedUsers | None
    audit: AuditTrail
    sign_ins: SignIns


@dataclass(slots=True)
class RequestFacts:
    """Facts of a request for the log line and the metrics; views fill them in.

    Attributes:
        request_id: the caller's `X-Request-ID` if it is 8 to 64 letters, digits and dashes, else a new one.
        caller: the user as the users are read now; None where nobody is asked for a password.
        named: the model that a prediction's path or query names, be there one or not.
        user, model, version: set once the password is verified, and the model is known to exist.
        outcome: the class of the answer, or the type of the error.
        timing: where the time went, once a model has looked at the request's pictures.
        trace_id: of the caller's trace or a new one, 32 hex digits, if the request is traced.
        is_streamed: whether the answer is sent in parts, and ends after the view.
        has_place: whether the request is counted, so that only so many go on at a time.
        lent: the version that was looked up for a prediction, or the error if there is none.
        hold: counts the bytes of the body anew; raises `ServiceUnavailableError` if there is no room for them.
        rule: of the route. The path itself is the caller's text, and is neither logged nor counted.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    caller: User | None = None
    named: str | None = None
    user: str | None = None
    model: str | None = None
    version: str | None = None
    outcome: str | None = None
    images: int | None = None
    timing: Timing | None = None
    trace_id: str | None = None
    is_streamed: bool = False
    status: int = 0
    has_place: bool = False
    lent: ModelEntry | AnsweredError | None = None
    hold: Callable[[int], object] = lambda _: None
    rule: str = "unmatched"

    def find_lent(self) -> ModelEntry:
        """Return the version that is lent for this prediction; raises the error if there is none."""
        if isinstance(self.lent, AnsweredError):
            raise copy(self.lent)  # what this object keeps would keep the request's frames
        assert self.lent is not None, "a route that predicts looks its model up"
        return self.lent


def make_services(settings: Settings) -> Services:
    """Make the parts that the views use: the models, what is wanted of them, and the metrics."""
    metrics = Metrics()

    def show_state(entry: ModelEntry) -> None:
        name, version = entry.folder.name, entry.folder.version
        metrics.show_state(name, version, entry.state, State)
        if entry.load_s is not None:
            metrics.show_load(name, version, entry.load_s)

    access = StoreAccess(settings)
    registry = ModelRegistry(settings, show_state, lambda gone: metrics.show_state(gone.name, gone.version, "", State))
    follower, changes = ModelFollower(settings, registry, access), ModelChanges(settings, access)
    limits, kept = RateLimits(settings.limits_store), KeptAnswers(settings.instance)
    shadowing = Shadowing(registry.table, metrics)
    file, table = UsersFile(settings.instance), UsersTable(access)
    audit = AuditTrail(access)

    def note_user(user: User) -> None:
        audit.note(AuditEntry("", "user imported", f"{user.name} ({user.role})"))

    is_own = settings.database == OWN_DATABASE
    return Services(
        *(settings, registry.table, metrics, changes, limits, follower, access, kept, shadowing),
        users=file if is_own else table,
        followed=None if is_own else FollowedUsers(table, file, note_user),
        audit=audit,
        sign_ins=SignIns(),
    )


@lru_cache(maxsize=1024)
def name_client(address: str) -> str:
    """Return a caller's address as logs have it; nothing for another text, which a proxy may have let through."""
    try:
        return str(ipaddress.ip_address(address.partition("%")[0]))  # a zone may be any text
    except ValueError:
        return ""


def note_audit(action: str, subject: str = "", actor: str | None = None) -> None:
    """Enter in the audit trail what the caller of the current request has done."""
    name = facts().user or "" if actor is None else actor
    services().audit.note(AuditEntry(name, action, subject, name_client(request.remote_addr or "")))


def services() -> Services:
    """Return the services of the current app."""
    return cast(Services, current_app.extensions[EXTENSION])


def begin_facts(environ: dict[str, Any]) -> RequestFacts:
    """Note when a request began, and its id; called before anything else."""
    given = environ.get("HTTP_X_REQUEST_ID", "")
    is_theirs = REQUEST_ID_PATTERN.fullmatch(given) is not None
    known = RequestFacts(given if is_theirs else str(uuid.UUID(int=random.getrandbits(128), version=4)))
    environ[FACTS] = known
    return known


def read_length(environ: dict[str, Any]) -> int | None:
    """Return the stated length of a request's body in bytes; None if it states none."""
    length = environ.get("CONTENT_LENGTH", "")
    return int(length) if length.isdecimal() else None


def names_this_machine(environ: dict[str, Any]) -> bool:
    """Whether a request names this machine itself as its host, or nothing; what proxies say does not count.

    One that a trusted proxy sent on does not, whatever it names: proxies hand on the caller's `Host`.
    """
    direct = environ.get("werkzeug.proxy_fix.orig")
    if direct is not None and not FORWARDING.isdisjoint(environ):
        return False
    host = (direct or environ).get("HTTP_HOST")
    return host is None or is_loopback_host(host)


def is_server_ready() -> bool:
    """Whether the server has the models that it should have, and does not stop."""
    return not request.environ.get(SERVER_IS_STOPPING) and services().registry.is_ready


def facts() -> RequestFacts:
    """Return the facts of the current request."""
    return cast(RequestFacts, request.environ[FACTS])
