"""The users file: one `name:role:hash` a line, scrypt hashes, readable by its owner alone."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from werkzeug.security import generate_password_hash

from app.errors import UsersError
from app.processes.atomic import FOR_OWNER, write_file
from app.processes.exposure import find_exposure
from app.processes.locks import hold_lock

USERS_FILE = "users"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
ROLES = ("predict", "manage")
HASH_METHOD = "scrypt"
MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 12, 1024
"""Characters of a new password; a shorter one that a user has already still counts."""


@dataclass(frozen=True)
class User:
    """One user: `manage` may do all that `predict` may."""

    name: str
    role: str
    password_hash: str

    @property
    def roles(self) -> list[str]:
        """Every role the user's own one includes."""
        return list(ROLES[: ROLES.index(self.role) + 1])


def has_control_characters(text: str) -> bool:
    """Whether text holds C0, C1 or DEL characters; scrypt cannot tell `secret` from `secret` plus a NUL."""
    return any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in text)


class UsersFile:
    """The users of one instance folder.

    Thread safety: changes take a lock between processes and replace the file as a whole; readers never see a half.
    """

    def __init__(self, instance: Path) -> None:
        self.path, self._lock_file = instance / USERS_FILE, instance / f"{USERS_FILE}.lock"

    def read(self) -> dict[str, User]:
        """Return the users by name; none if there is no file.

        Raises `UsersError` for a malformed line, and for a file that others may change: they could let themselves in.
        """
        try:
            with self.path.open(encoding="utf-8") as file:
                is_changeable, advice = find_exposure(os.fstat(file.fileno()).st_mode, self.path)
                lines = file.read().splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise UsersError(f"{self.path} cannot be read: {error}") from error
        if is_changeable:
            raise UsersError(advice)
        users = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, role, password_hash = [*line.split(":", 2), "", ""][:3]
            if not NAME_PATTERN.fullmatch(name) or role not in ROLES or not password_hash.startswith(HASH_METHOD):
                raise UsersError(f"line {number} of {self.path} is not name:role:{HASH_METHOD}:…")
            users[name] = User(name, role, password_hash)
        return users

    def add(self, name: str, role: str, password: str) -> bool:
        """Add a user, or give one a new password and role; return whether it is new. Raises `UsersError`."""
        if not NAME_PATTERN.fullmatch(name):
            raise UsersError(
                "a name is 1 to 64 letters, digits, dots, dashes, underscores or @, a letter or digit first"
            )
        if role not in ROLES:
            raise UsersError(f"a role is {' or '.join(ROLES)}")
        if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH or has_control_characters(password):
            raise UsersError(
                f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters and no control characters; "
                f"this one has {len(password)}"
            )
        user = User(name, role, generate_password_hash(password, HASH_METHOD))
        with hold_lock(self._lock_file):
            users = self.read()
            self._write({**users, name: user})
        return name not in users

    def remove(self, name: str) -> None:
        """Remove a user. Raises `UsersError` if there is none of this name."""
        with hold_lock(self._lock_file):
            users = self.read()
            if users.pop(name, None) is None:
                raise UsersError(f"there is no user {name}")
            self._write(users)

    def _write(self, users: dict[str, User]) -> None:
        text = "".join(f"{user.name}:{user.role}:{user.password_hash}\n" for user in users.values())
        try:
            write_file(self.path, text, FOR_OWNER)
        except OSError as error:
            raise UsersError(f"{self.path} cannot be written: {error.strerror}") from error
