"""What can be done with users, wherever they are kept: in a file or in a database."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from werkzeug.security import generate_password_hash

from app.errors import UsersError
from app.users.user import HASH_METHOD, PREDICT, Token, User, check_password, check_user, make_token

EVERY_MODEL = "*"


class UserBook(ABC):
    """The users of a server, or of all servers that share a database.

    All methods raise `UsersError`, and those of a database `StateStoreError` or `DiskFullError` too.

    Thread safety: all methods may be called from any thread and any process; changes come one after the other.
    """

    @abstractmethod
    def read(self) -> dict[str, User]:
        """Return the users by name."""

    @abstractmethod
    def change(self) -> AbstractContextManager[dict[str, User]]:
        """Change users: `with book.change() as users: …`. Nothing is changed if the block raises."""

    def add(self, name: str, role: str, password: str, models: Iterable[str] | None = None) -> bool:
        """Add a user, or give one a new password and role; return whether it is new.

        A user who exists keeps the tokens and, with None, the `models`. `*` among the models takes the bounds away.
        """
        check_password(password)
        user = check_user(User(name, role, generate_password_hash(password, HASH_METHOD), clean(models or ())))
        with self.change() as users:
            before = users.get(name)
            if before is not None:
                kept = before.models if models is None and role == PREDICT else user.models
                user = replace(user, models=kept, tokens=before.tokens)
            users[name] = user
        return before is None

    def remove(self, name: str) -> None:
        """Remove a user with all tokens."""
        with self.change() as users:
            del users[find_user(users, name).name]

    def add_token(self, name: str, lasts_s: int | None) -> tuple[str, Token]:
        """Give a user a token that lasts so many seconds, or for ever; return its text, and what is kept of it."""
        with self.change() as users:
            user, taken = find_user(users, name), {token.id for each in users.values() for token in each.tokens}
            text, token = make_token(lasts_s)
            while token.id in taken:
                text, token = make_token(lasts_s)
            users[name] = check_user(replace(user, tokens=(*user.tokens, token)))
        return text, token

    def revoke_token(self, name: str, token_id: str) -> None:
        """Take a token from a user."""
        with self.change() as users:
            user = find_user(users, name)
            left = tuple(token for token in user.tokens if token.id != token_id)
            if left == user.tokens:
                raise UsersError(f"{name} has no token {token_id}")
            users[name] = replace(user, tokens=left)


def find_user(users: Mapping[str, User], name: str) -> User:
    """Return a user; raises `UsersError` if there is none of this name."""
    if name not in users:
        raise UsersError(f"there is no user {name}")
    return users[name]


def clean(models: Iterable[str]) -> tuple[str, ...]:
    """Return patterns of models, each once and in order; none where one of them means every model."""
    patterns = tuple(sorted({part.strip() for text in models for part in text.split(",")}))
    return () if EVERY_MODEL in patterns else patterns
