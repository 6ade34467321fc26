"""A user: name, role, password hash, tokens, and the models that the user may ask."""

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase

from app.errors import UsersError

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
PREDICT, MANAGE, PROXY = "predict", "manage", "proxy"
ROLES = (PREDICT, MANAGE, PROXY)
HASH_METHOD = "scrypt"
MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 12, 1024
"""Characters of a new password; a shorter one that a user has already still counts."""
GLOB_PATTERN = re.compile(r"[A-Za-z0-9._*?!\[\]-]{1,64}")
MAX_GLOBS, MAX_TOKENS = 16, 32
TOKEN_PATTERN = re.compile(r"scancer_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
TOKEN_ID_PATTERN, DIGEST_PATTERN = re.compile(r"[0-9a-f]{8}"), re.compile(r"[0-9a-f]{64}")
DAY_S = 86400


@dataclass(frozen=True)
class Token:
    """What is kept of a token: nobody can make the token of it.

    Attributes:
        id: eight hexadecimal digits, which the token itself holds too.
        digest: SHA-256 of the token. Its secret has 256 random bits, so a slow hash would protect it no better.
        made, expires: seconds since 1970; one that never expires has None.
    """

    id: str
    digest: str
    made: int
    expires: int | None

    def is_expired(self) -> bool:
        """Whether the token counts no longer."""
        return self.expires is not None and time.time() >= self.expires

    def fits(self, text: str) -> bool:
        """Whether a text is this token; takes as long for every text of one length."""
        return hmac.compare_digest(digest(text), self.digest)


@dataclass(frozen=True)
class User:
    """One user.

    `manage` may do all that `predict` may. `proxy` may do nothing, but the proxy that signs in as such a user may name
    another one. `models` are patterns such as `pcam-*`; none stands for every model.
    """

    name: str
    role: str
    password_hash: str
    models: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()

    @property
    def roles(self) -> list[str]:
        """Every role the user's own one includes."""
        return [] if self.role == PROXY else list(ROLES[: ROLES.index(self.role) + 1])

    def may_ask(self, model: str) -> bool:
        """Whether the user may ask a model of this name, be there one or not."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


def digest(text: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_token_id(text: str) -> str:
    """Return the id that a text of a token's shape holds; nothing for another text."""
    found = TOKEN_PATTERN.fullmatch(text)
    return found[1] if found else ""


def make_token(lasts_s: int | None) -> tuple[str, Token]:
    """Make a token that lasts so many seconds, or for ever; return its text, and what is kept of it."""
    id_, now = secrets.token_hex(4), int(time.time())
    text = f"scancer_{id_}_{secrets.token_urlsafe(32)}"
    return text, Token(id_, digest(text), now, None if lasts_s is None else now + lasts_s)


def has_control_characters(text: str) -> bool:
    """Whether text holds C0, C1 or DEL characters; scrypt cannot tell `secret` from `secret` plus a NUL."""
    return any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in text)


def check_user(user: User) -> User:
    """Return a user as one may be kept; raises `UsersError`, whose message says what is wrong."""
    if not NAME_PATTERN.fullmatch(user.name):
        raise UsersError("a name is 1 to 64 letters, digits, dots, dashes, underscores or @, a letter or digit first")
    if user.role not in ROLES:
        raise UsersError(f"a role is {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    if not user.password_hash.startswith(HASH_METHOD):
        raise UsersError(f"the hash of a password begins with {HASH_METHOD}")
    if len(user.models) > MAX_GLOBS or not all(map(GLOB_PATTERN.fullmatch, user.models)):
        raise UsersError(
            f"models are named by up to {MAX_GLOBS} patterns of 1 to 64 letters, digits, dots, dashes, underscores and "
            "the signs * ? [ ] !"
        )
    if user.models and user.role != PREDICT:
        raise UsersError(f"only a user with the role {PREDICT} can be kept to some models")
    if len(user.tokens) > MAX_TOKENS:
        raise UsersError(f"a user has {MAX_TOKENS} tokens at most: revoke one")
    for token in user.tokens:
        if not TOKEN_ID_PATTERN.fullmatch(token.id) or not DIGEST_PATTERN.fullmatch(token.digest):
            raise UsersError("a token has an id of 8 hexadecimal digits, and a SHA-256 of 64")
    return user


def check_password(password: str) -> None:
    """Raise `UsersError` unless a new password is one that may be."""
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH or has_control_characters(password):
        raise UsersError(
            f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters and no control characters; "
            f"this one has {len(password)}"
        )
