"""HTTP Basic auth: who the caller is, and whether the role suffices."""

import hmac
import logging
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from functools import wraps
from http import HTTPStatus
from operator import attrgetter
from typing import Any

from flask import current_app, request
from flask_httpauth import HTTPBasicAuth
from werkzeug.security import check_password_hash, generate_password_hash

from app.api.request.services import FACTS, facts
from app.config.settings import CALLER_IS_KNOWN
from app.errors import ForbiddenError, TooManyLoginsError, UnauthorizedError, UsersError
from app.users import HASH_METHOD, User, UsersFile, has_control_characters

log = logging.getLogger(__name__)

MAX_PROOFS = 1024
MAX_WAITING = 4
"""Different credentials that may wait, beside those being hashed, in one worker: scrypt takes 0.1 s and 32 MiB each."""
LOGIN_MEMORY_S = 300
"""How long a worker remembers a verified password."""

auth = HTTPBasicAuth()

View = Callable[..., Any]


def require(role: str) -> Callable[[View], View]:
    """Guard a view: only a user with this role comes in; others are answered 401 or 403."""
    guard = auth.login_required(role=role)

    def decorate(view: View) -> View:
        guarded = guard(view)

        @wraps(view)
        def check(*args: Any, **kwargs: Any) -> Any:
            authenticator, environ = current_app.extensions["authenticator"], request.environ
            if authenticator is None:  # SCANCER_AUTH=off
                return view(*args, **kwargs)
            header = environ.get("HTTP_AUTHORIZATION", "")
            if not header.isascii():  # werkzeug's reader of base64 raises an error of its own for these
                refuse(HTTPStatus.UNAUTHORIZED)
            user = authenticator.recall(header)
            if user is not None and role in user.roles:
                environ[FACTS].user, environ[CALLER_IS_KNOWN] = user.name, True
                return view(*args, **kwargs)
            # Flask-HTTPAuth lets every OPTIONS pass, for the sake of CORS; here one answers a document.
            if request.method == "OPTIONS" and not auth.authenticate(auth.get_auth(), None):
                refuse(HTTPStatus.UNAUTHORIZED)
            return guarded(*args, **kwargs)

        return check

    return decorate


class Authenticator:
    """Verifies passwords, and remembers the verified ones for a while.

    It remembers an HMAC under a key of this process, which proves a password again in microseconds and cannot be
    turned back; scrypt takes more time than the model. Only successes are kept, until the users file changes.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, users_file: UsersFile, memory_s: float = LOGIN_MEMORY_S) -> None:
        self._file, self._memory_s = users_file, memory_s
        self._key = os.urandom(32)
        self._lock, self._hashing = threading.Lock(), threading.Lock()
        self._waiting: Counter[bytes] = Counter()
        self._proofs: OrderedDict[bytes, tuple[User, float]] = OrderedDict()
        self._users: dict[str, User] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._nobody = User("", "predict", generate_password_hash("", HASH_METHOD))

    def recall(self, header: str) -> User | None:
        """Return the user whose password came before in the same `Authorization` header, if that is still known."""
        self._refresh()
        return self._find_remembered(self._prove("header", header))

    def knows(self, environ: Mapping[str, Any]) -> bool:
        """Whether the request of a WSGI environment comes with a password that is known to be right."""
        return self.recall(environ.get("HTTP_AUTHORIZATION", "")) is not None

    def remember(self, header: str, user: User) -> None:
        """Remember the `Authorization` header that a verified user sent, for `recall`."""
        self._remember(self._prove("header", header), user)

    def verify(self, name: str, password: str) -> User | None:
        """Return the user whose password this is, or None. Raises `TooManyLoginsError`."""
        if has_control_characters(name + password):
            return None
        self._refresh()
        # An unknown user costs the same hash as a known one, so that timing does not tell them apart.
        user = self._users.get(name, self._nobody)
        proof = self._prove("password", user.name, password, user.password_hash)
        if self._find_remembered(proof) is not None or self._check_slowly(user, password, proof):
            return user if user is not self._nobody else None
        return None

    def _find_remembered(self, proof: bytes) -> User | None:
        with self._lock:
            user, until = self._proofs.get(proof, (self._nobody, 0.0))
            # Compared whole, hash and role too: one of an earlier file may have been remembered a moment too late.
            is_current = self._users.get(user.name) == user
        return user if is_current and until > time.monotonic() else None

    def _remember(self, proof: bytes, user: User) -> None:
        with self._lock:
            self._proofs[proof] = (user, time.monotonic() + self._memory_s)
            if len(self._proofs) > MAX_PROOFS:
                self._proofs.popitem(last=False)

    def _prove(self, *parts: str) -> bytes:
        return hmac.digest(self._key, "\0".join(parts).encode(), "sha256")

    def _check_slowly(self, user: User, password: str, proof: bytes) -> bool:
        """Check by the hash, one at a time; who waits with the same credentials shares the first one's success."""
        with self._lock:
            # A client that opens ten connections at once is one login.
            if proof not in self._waiting and len(self._waiting) > MAX_WAITING:
                raise TooManyLoginsError("Too many logins at a time; try again shortly.")
            self._waiting[proof] += 1
        try:
            with self._hashing:
                if self._find_remembered(proof) is not None:
                    return True
                is_right = check_password_hash(user.password_hash, password)
                if is_right and user is not self._nobody:
                    self._remember(proof, user)
                return is_right
        finally:
            with self._lock:
                self._waiting -= Counter([proof])  # drops what comes to 0

    def _refresh(self) -> None:
        """Read the users file again if it is another one than last time."""
        try:
            status = self._file.path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            stamp = (0, 0, 0)
        if stamp == self._stamp:
            return
        try:
            users = self._file.read()
        except UsersError as error:
            log.error("no user can log in", extra={"reason": error.message})
            users = {}
        with self._lock:
            self._users, self._stamp = users, stamp
            self._proofs.clear()


@auth.verify_password  # type: ignore[untyped-decorator]  # it has no annotations
def verify_password(name: str, password: str) -> User | None:
    """Return the user of the request's credentials."""
    # Flask-HTTPAuth takes the credentials of any scheme for Basic ones.
    if request.authorization is None or request.authorization.type != "basic" or not name:
        return None
    authenticator: Authenticator = current_app.extensions["authenticator"]
    user = authenticator.verify(name, password or "")
    if user is not None:
        authenticator.remember(request.environ["HTTP_AUTHORIZATION"], user)
        facts().user, request.environ[CALLER_IS_KNOWN] = user.name, True
    return user


@auth.error_handler  # type: ignore[untyped-decorator]  # as above
def refuse(status: int) -> None:
    """Answer 401 or 403 in the one error shape."""
    if status == 403:
        raise ForbiddenError("The user lacks the role that this needs.")
    raise UnauthorizedError("A user name and password are needed, and must be right.")


auth.get_user_roles(attrgetter("roles"))
