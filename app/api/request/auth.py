"""HTTP Basic auth: who the caller is, and whether the role suffices."""

import logging
import time
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from operator import attrgetter
from typing import Any

from flask import current_app, request
from flask_httpauth import HTTPBasicAuth

from app.api.login.authenticator import Authenticator
from app.api.request.services import FACTS, RequestFacts, facts, services
from app.config.setting_types import NO_RATE
from app.config.settings import ANSWER_DELAY_S, CALLER_IS_KNOWN
from app.errors import ForbiddenError, RateError, TooManyLoginsError, UnauthorizedError
from app.processes.turns import give_way
from app.users import User

log = logging.getLogger(__name__)

FAILURE_S = 1.0
"""How long a failed login takes, whatever its reason: longer than the passwords that may wait in a worker."""

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
            user = authenticator.recall(header)
            if user is not None and role in user.roles:
                environ[FACTS].user, environ[CALLER_IS_KNOWN] = user.name, True
                return limited(*args, **kwargs)
            # Flask-HTTPAuth lets every OPTIONS pass, for the sake of CORS; here one answers a document.
            if request.method == "OPTIONS" and not auth.authenticate(auth.get_auth(), None):
                refuse(HTTPStatus.UNAUTHORIZED)
            return guarded(*args, **kwargs)

        return check

    return decorate


def limit_predictions(view: View) -> View:
    """Let a caller in. A request that has a place needs no turn any more: places bound how many go on. One that asks a
    model for something is counted against its user's `SCANCER_PREDICTION_RATE`, if that is set.

    Where nobody has a name, the address stands for it. Raises `RateError`.
    """

    @wraps(view)
    def count(*args: Any, **kwargs: Any) -> Any:
        known: RequestFacts = request.environ[FACTS]
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
        note_failure("limited")
        raise
    if user is None:
        note_failure("wrong")
        log.warning("a login failed", extra={"request_id": facts().request_id, "reason": "wrong name or password"})
        return None
    authenticator.remember(request.environ["HTTP_AUTHORIZATION"], user, password or "")
    facts().user, request.environ[CALLER_IS_KNOWN] = user.name, True
    return user


def note_failure(reason: str) -> None:
    """Count a failed login, and withhold its answer until all failures take the same time."""
    services().metrics.count_failed_login(reason)
    request.environ[ANSWER_DELAY_S] = max(0.0, FAILURE_S - (time.perf_counter() - facts().started))


@auth.error_handler  # type: ignore[untyped-decorator]  # as above
def refuse(status: int) -> None:
    """Answer 401 or 403 in the one error shape."""
    if status == 403:
        raise ForbiddenError("The user lacks the role that this needs.")
    raise UnauthorizedError("A user name and password are needed, and must be right.")


auth.get_user_roles(attrgetter("roles"))
