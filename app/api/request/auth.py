"""Who the caller is, by HTTP Basic auth or by a token, and whether role and models suffice."""

import logging
import time
from collections.abc import Callable, Iterable
from functools import wraps
from http import HTTPStatus
from operator import attrgetter
from typing import Any

from flask import current_app, request
from flask_httpauth import HTTPBasicAuth

from app.api.login.authenticator import Authenticator, find_token
from app.api.request.services import FACTS, RequestFacts, facts, note_audit, services
from app.config.setting_types import NO_HEADER, NO_RATE
from app.config.settings import ANSWER_DELAY_S, CALLER_IS_KNOWN
from app.errors import ForbiddenError, RateError, TooManyLoginsError, UnauthorizedError
from app.processes.turns import give_way
from app.registry.model_entry import ModelEntry
from app.users import PROXY, User
from app.users.user import read_token_id

log = logging.getLogger(__name__)

FAILURE_S = 1.0
"""How long a failed login takes, whatever its reason: longer than the passwords that may wait in a worker."""

BASIC = "password"
"""How a user came in, in the audit trail."""

auth = HTTPBasicAuth()

View = Callable[..., Any]


def require(role: str) -> Callable[[View], View]:
    """Guard a view: only a user with this role comes in; others are answered 401 or 403."""
    guard = auth.login_required(role=role)

    def decorate(view: View) -> View:
        limited = limit_predictions(view)
        guarded = guard(limited)

        @wraps(view)
        def check(*args: Any, **kwargs: Any) -> Any:
            authenticator, environ = current_app.extensions["authenticator"], request.environ
            if authenticator is None:  # SCANCER_AUTH=off
                return limited(*args, **kwargs)
            header = environ.get("HTTP_AUTHORIZATION", "")
            if not header.isascii():  # werkzeug's reader of base64 raises an error of its own for these
                refuse(HTTPStatus.UNAUTHORIZED)
            token = find_token(header)
            user = authenticator.recall(header) if token is None else verify_token(authenticator, token)
            if user is not None:
                way = BASIC if token is None else f"token {read_token_id(token)}"
                if role not in admit(user, way).roles:
                    refuse(HTTPStatus.FORBIDDEN)
                return limited(*args, **kwargs)
            # Flask-HTTPAuth lets every OPTIONS pass, for the sake of CORS; here one answers a document.
            if request.method == "OPTIONS":
                user = auth.authenticate(auth.get_auth(), None)
                if not user or role not in user.roles:
                    refuse(HTTPStatus.FORBIDDEN if user else HTTPStatus.UNAUTHORIZED)
            return guarded(*args, **kwargs)

        return check

    return decorate


def limit_predictions(view: View) -> View:
    """Let a caller in who may ask the model that the request names. A request that has a place needs no turn any more:
    places bound how many go on. One that asks a model for something is counted against its user's
    `SCANCER_PREDICTION_RATE`, if that is set.

    Where nobody has a name, the address stands for it. Raises `ForbiddenError` or `RateError`.
    """

    @wraps(view)
    def count(*args: Any, **kwargs: Any) -> Any:
        known: RequestFacts = request.environ[FACTS]
        named = (request.view_args or {}).get("model_name", known.named)
        if named is not None:  # before anybody looks whether there is such a model
            require_model(named)
        if known.lent is not None and (rate := services().settings.prediction_rate) != NO_RATE:
            key = ("user", known.user) if known.user is not None else ("caller", request.remote_addr or "")
            if not services().limits.count(rate, "predictions", *key):
                services().metrics.count_refusal("rate")
                wait_s = services().limits.find_wait_s(rate, "predictions", *key)
                raise RateError(f"A user may ask for {rate.replace('/', ' predictions a ')}; wait.", wait_s or 1)
        if known.has_place:
            give_way()
        return view(*args, **kwargs)

    return count


@auth.verify_password  # type: ignore[untyped-decorator]  # it has no annotations
def verify_password(name: str, password: str) -> User | None:
    """Return the user of the request's credentials."""
    # Flask-HTTPAuth takes the credentials of any scheme for Basic ones.
    if request.authorization is None or request.authorization.type != "basic" or not name:
        return None
    authenticator: Authenticator = current_app.extensions["authenticator"]
    try:
        user = authenticator.verify(name, password or "", request.remote_addr or "")
    except TooManyLoginsError:
        note_failure("limited", "too many logins", find_name(name))
        raise
    if user is None:
        note_failure("wrong", "wrong name or password", find_name(name))
        return None
    authenticator.remember(request.environ["HTTP_AUTHORIZATION"], user, password or "")
    return admit(user, BASIC)


def find_name(name: str) -> str:
    """Return a name if a user has it, else nothing: people type passwords where a name belongs."""
    return name if current_app.extensions["authenticator"].find(name) is not None else ""


def admit(user: User, way: str) -> User:
    """Note who asks, and return the user: for a proxy that signed in itself, the one whom it names.

    `way` is how the user came in, for the audit trail.
    """
    known: RequestFacts = request.environ[FACTS]
    header = services().settings.user_header
    if user.role == PROXY and header != NO_HEADER:
        user, way = find_named(user, header), f"proxy {user.name}"
    known.user, known.caller, request.environ[CALLER_IS_KNOWN] = user.name, user, True
    if services().sign_ins.is_new(user.name, way, request.remote_addr or ""):
        note_audit("signed in", way)
    return user


def find_named(proxy: User, header: str) -> User:
    """Return the user whom a proxy names; raises `UnauthorizedError` for a name that no user has, and for a proxy's."""
    authenticator: Authenticator = current_app.extensions["authenticator"]
    named = authenticator.find(request.headers.get(header, ""))
    if named is None or named.role == PROXY:
        note_failure("wrong", "the proxy names no user", proxy.name)
        raise UnauthorizedError("The proxy names no user of this server.")
    return named


def verify_token(authenticator: Authenticator, text: str) -> User:
    """Return the user of a token. Raises `UnauthorizedError` for one that is expired or wrong, or `TooManyLoginsError`
    where an address has sent too many wrong ones.
    """
    owner, token = authenticator.find_token(text)
    if token is not None and not token.is_expired():
        return owner
    if token is not None:
        note_failure("wrong", f"token {token.id} has expired", owner.name)
        raise UnauthorizedError("The token has expired; ask the operator for another one.")
    try:
        authenticator.count_wrong_token(text, request.remote_addr or "")
    except TooManyLoginsError:
        note_failure("limited", "too many logins")
        raise
    note_failure("wrong", "wrong token")
    raise UnauthorizedError("The token is wrong, or was revoked.")


def require_model(name: str) -> None:
    """Raise `ForbiddenError` if the caller may not ask a model of this name, be there one or not."""
    if not may_ask(name):
        raise ForbiddenError("The user may not ask this model.")


def may_ask(name: str) -> bool:
    """Whether the caller may ask a model of this name; where nobody has a name, anybody may."""
    caller = facts().caller
    return caller is None or caller.may_ask(name)


def list_askable(entries: Iterable[ModelEntry]) -> list[ModelEntry]:
    """Return those models that the caller may ask."""
    return [entry for entry in entries if may_ask(entry.wanted.name)]


def note_failure(kind: str, reason: str, name: str = "") -> None:
    """Count a failed login, and withhold its answer until all failures take the same time.

    `name` is that of a user who exists, or empty. The log has each failure but those that were not tried; the audit
    trail has one of a kind and minute.
    """
    services().metrics.count_failed_login(kind)
    if kind != "limited":
        log.warning("a login failed", extra={"request_id": facts().request_id, "reason": reason})
    if services().sign_ins.is_new_failure(reason, name, request.remote_addr or ""):
        note_audit("sign-in failed", reason, name)
    request.environ[ANSWER_DELAY_S] = max(0.0, FAILURE_S - (time.perf_counter() - facts().started))


@auth.error_handler  # type: ignore[untyped-decorator]  # as above
def refuse(status: int) -> None:
    """Answer 401 or 403 in the one error shape."""
    if status == 403:
        raise ForbiddenError("The user lacks the role that this needs.")
    raise UnauthorizedError("A user name and password are needed, and must be right.")


auth.get_user_roles(attrgetter("roles"))
