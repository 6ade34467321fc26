"""Verifies passwords, and remembers which were right."""

import hmac
import logging
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from werkzeug.security import check_password_hash

from app.api.login.guesses import Guesses
from app.api.login.rate_limits import RateLimits
from app.config.settings import Settings
from app.errors import ServiceUnavailableError, TooManyLoginsError, UsersError, UsersUnreadableError
from app.processes.shared_table import COUNTS, PROOFS, SharedTable
from app.processes.turns import give_way
from app.users import HASH_METHOD, Token, User, UsersFile, has_control_characters
from app.users.user import read_token_id

log = logging.getLogger(__name__)

MAX_HEADERS = 1024
MAX_WAITING = 4
"""Different credentials of strangers that may wait in one worker, beside those being hashed: scrypt takes 0.1 s and
32 MiB each."""
LOGIN_MEMORY_S = 300
"""How long a verified password is remembered after its last use."""
WRONG_S = 60.0
"""How long a wrong password is remembered as wrong."""
NOBODYS_HASH = f"{HASH_METHOD}$nobody$"
"""No password has this hash, and to check one against it takes as long as against a real one."""
USERS_AWAY = "The users cannot be read now, so nobody can sign in; try again shortly."
TOO_MANY = "Too many logins; try again later."


class UserSource(Protocol):
    """Where users are read from: the file of an instance folder, or a database that is followed."""

    def find_stamp(self) -> object:
        """Return what changes whenever the users do; may raise `ServiceUnavailableError`."""

    def read(self) -> dict[str, User]:
        """Return the users by name; may raise `UsersError`, or `UsersUnreadableError` for what may pass."""


class Lane:
    """Where passwords wait to be hashed, one at a time.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._lock, self._hashing = threading.Lock(), threading.Lock()
        self._waiting: Counter[bytes] = Counter()

    def is_full(self, credentials: bytes) -> bool:
        """Whether there is no room for what stands for these credentials; the same ones at a time are one login."""
        return credentials not in self._waiting and len(self._waiting) > self._max_waiting

    @contextmanager
    def enter(self, credentials: bytes) -> Iterator[None]:
        """Wait for one's turn. Raises `TooManyLoginsError` if the lane is full."""
        with self._lock:
            if self.is_full(credentials):
                raise TooManyLoginsError(TOO_MANY)
            self._waiting[credentials] += 1
        give_way()
        try:
            with self._hashing:
                yield
        finally:
            with self._lock:
                self._waiting -= Counter([credentials])  # drops what comes to 0


class Authenticator:
    """Verifies passwords, and remembers the verified ones for a while after each use.

    scrypt takes more time than the model. So a worker remembers an HMAC of the `Authorization` header, and all workers
    together one of the password, which outlives its time: who had the right one before and comes back has a lane of
    their own, which no stranger can fill. Names that exist have one too. A wrong password that comes again is neither
    hashed nor counted again.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(
        self,
        source: UserSource,
        memory_s: float = LOGIN_MEMORY_S,
        limits: RateLimits | None = None,
        proofs: SharedTable | None = None,
    ) -> None:
        self._source, self._memory_s = source, memory_s
        self._proofs = proofs or SharedTable(64)
        self._guesses = Guesses(limits or RateLimits(), self._proofs)
        self._key, self._lock = os.urandom(32), threading.Lock()
        self._returning, self._existing, self._strange = Lane(64), Lane(2 * MAX_WAITING), Lane(MAX_WAITING)
        self._headers: OrderedDict[bytes, tuple[User, float, bytes]] = OrderedDict()
        self._users: dict[str, User] = {}
        self._tokens: dict[str, tuple[User, Token]] = {}
        self._stamp: object = None
        self._fault = ""
        self._nobody = User("", "predict", NOBODYS_HASH)

    def knows(self, environ: Mapping[str, Any]) -> bool:
        """Whether the request of a WSGI environment comes with a token, or a password that is known to be right."""
        try:
            return self.recall(environ.get("HTTP_AUTHORIZATION", "")) is not None
        except ServiceUnavailableError:
            return False

    def find(self, name: str) -> User | None:
        """Return the user of a name, if there is one."""
        self._refresh()
        return self._users.get(name)

    def recall(self, header: str) -> User | None:
        """Return the user whose token an `Authorization` header holds, or whose password came before in the same one.

        None for a password that is not known any more, and for a token that is wrong or expired. Raises
        `ServiceUnavailableError` if nobody can be known, as every method here that looks users up.
        """
        text = find_token(header)
        if text is not None:
            owner, token = self.find_token(text)
            return None if token is None or token.is_expired() else owner
        self._refresh()
        mark, now = hmac.digest(self._key, header.encode(), "sha256"), time.monotonic()
        with self._lock:
            user, until, proof = self._headers.get(mark, (self._nobody, 0.0, b""))
            # Compared whole, hash and role too: one of an earlier file may have been remembered a moment too late.
            if until <= now or self._users.get(user.name) != user:
                return None
            is_due = until - now < self._memory_s / 2
            if is_due:
                self._headers[mark] = user, now + self._memory_s, proof
                self._headers.move_to_end(mark)
        if is_due:
            self._proofs.put(proof, self._memory_s)
        return user

    def find_token(self, text: str) -> tuple[User, Token | None]:
        """Return the user of a token, expired or not, and what is kept of it; None in its place for a wrong one."""
        self._refresh()
        owner, token = self._tokens.get(read_token_id(text), (self._nobody, None))
        return (owner, token) if token is not None and token.fits(text) else (self._nobody, None)

    def count_wrong_token(self, text: str, address: str) -> None:
        """Count a wrong token as a failed login of an address. Raises `TooManyLoginsError` if that is at its limit.

        A right token is never refused: nobody can guess the 256 bits of one, so the limit spares the log alone.
        """
        if wait_s := self._guesses.count_wrong_token(text, address):
            raise TooManyLoginsError(TOO_MANY, wait_s)

    def remember(self, header: str, user: User, password: str) -> None:
        """Remember the `Authorization` header that a verified user sent, for `recall`."""
        mark = hmac.digest(self._key, header.encode(), "sha256")
        with self._lock:
            self._headers[mark] = user, time.monotonic() + self._memory_s, self._prove(user, password)
            if len(self._headers) > MAX_HEADERS:
                self._headers.popitem(last=False)

    def verify(self, name: str, password: str, address: str = "") -> User | None:
        """Return the user whose password this is, or None. Raises `TooManyLoginsError`."""
        if has_control_characters(name + password):
            return None
        self._refresh()
        # An unknown user costs the same hash as a known one, so that timing does not tell them apart.
        user = self._users.get(name, self._nobody)
        exists, proof = user is not self._nobody, self._prove(user, password)
        if not exists or self._proofs.get(proof) is None:
            return self._verify_first(name, user, password, address)
        return user if self._is_right(self._returning, name, user, password) else None

    def _verify_first(self, name: str, user: User, password: str, address: str) -> User | None:
        """Verify a password that was not right before, if the name and the address may still try.

        What is told of a wrong one is the same whether the name exists or not.
        """
        exists, wrong = user is not self._nobody, mark_wrong(name, user, password)
        standing = self._guesses.look_up(name, address)
        is_crowded = self._strange.is_full(wrong) or self._existing.is_full(wrong)
        refusal = TooManyLoginsError(TOO_MANY, standing.wait_s or 1) if standing.wait_s or is_crowded else None
        if refusal is not None and (standing.is_spent or not exists):
            raise refusal
        is_new = not COUNTS.has(wrong)
        if is_new and self._is_right(self._existing if exists else self._strange, name, user, password):
            self._guesses.note_success(name, address)
            return user
        if is_new:
            self._guesses.count_failure(name, address, exists)
        if refusal is not None:
            raise refusal
        return None

    def _is_right(self, lane: Lane, name: str, user: User, password: str) -> bool:
        """Whether a password is right, by what is remembered or else by its hash. Raises `TooManyLoginsError`."""
        proof, wrong = self._prove(user, password), mark_wrong(name, user, password)
        if not self._proofs.has(proof):
            with lane.enter(wrong):
                # Who came with the same credentials at the same time may have had them verified.
                if not self._proofs.has(proof) and (COUNTS.has(wrong) or not self._check(user, password)):
                    COUNTS.put(wrong, WRONG_S)
                    return False
        self._proofs.put(proof, self._memory_s)
        return True

    def _check(self, user: User, password: str) -> bool:
        return check_password_hash(user.password_hash, password) and user is not self._nobody

    def _prove(self, user: User, password: str) -> bytes:
        """Return what proves a password of a user, as they stand in the users file."""
        return self._proofs.hash("password", user.name, user.role, user.password_hash, password)

    def _refresh(self) -> None:
        """Read the users again if they are others than last time.

        Raises `ServiceUnavailableError` while the system does not let them be read, and keeps no sign of that: the next
        look tries again. Users who cannot be, as in a malformed file, are nobody until they change.
        """
        stamp = self._source.find_stamp()
        if stamp == self._stamp:
            return
        fault, users = "", {}
        try:
            users = self._source.read()
        except UsersUnreadableError as error:
            self._note_fault(error.message)
            raise ServiceUnavailableError(USERS_AWAY) from error
        except UsersError as error:
            fault = error.message
        self._note_fault(fault)
        tokens = {token.id: (user, token) for user in users.values() for token in user.tokens}
        with self._lock:
            self._users, self._tokens, self._stamp = users, tokens, stamp

    def _note_fault(self, fault: str) -> None:
        """Log a fault of the users when it begins, and not for each request that meets it."""
        if fault and fault != self._fault:
            log.error("nobody can log in", extra={"reason": fault})
        self._fault = fault


def make_authenticator(settings: Settings, limits: RateLimits, followed: UserSource | None) -> Authenticator | None:
    """Make the authenticator of a server, whose users are those of the file unless they are `followed` elsewhere.

    None where nobody is asked for a password.
    """
    source = followed or UsersFile(settings.instance)
    return Authenticator(source, limits=limits, proofs=PROOFS) if settings.auth == "on" else None


def find_token(header: str) -> str | None:
    """Return what an `Authorization` header holds as a token; None for another scheme."""
    scheme, _, text = header.partition(" ")
    return text.strip() if scheme.lower() == "bearer" else None


def mark_wrong(name: str, user: User, password: str) -> bytes:
    """Return the key under which credentials are remembered as wrong."""
    return COUNTS.hash("wrong", name, user.password_hash, password)
