"""The users file, readable by its owner alone: `name:role:hash` a line, and lines for tokens and models of a name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from app.errors import UsersError, UsersUnreadableError
from app.processes.atomic import FOR_OWNER, write_file
from app.processes.exposure import find_exposure
from app.processes.locks import hold_lock
from app.users.user import HASH_METHOD, Token, User, check_user
from app.users.user_book import UserBook

USERS_FILE = "users"
MODELS_LINE, TOKEN_LINE = "models", "token"
NEVER = "never"
SHAPES = f"name:role:{HASH_METHOD}:…, name:{MODELS_LINE}:pattern,… or name:{TOKEN_LINE}:id:made:expires:sha256"


class UsersFile(UserBook):
    """The users of one instance folder, or those of another file.

    Thread safety: changes take a lock between processes and replace the file as a whole; readers never see a half.
    """

    def __init__(self, instance: Path, path: Path | None = None) -> None:
        self.path, self._lock_file = path or instance / USERS_FILE, instance / f"{USERS_FILE}.lock"

    def find_stamp(self) -> object:
        """Return what changes whenever the file does."""
        try:
            status = self.path.stat()
        except OSError:
            return None, None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode

    def read(self) -> dict[str, User]:
        """Return the users by name; none if there is no file.

        Raises `UsersError` for a malformed line, and for a file that others may change: they could let themselves in.
        Where the system does not read the file, such as for want of descriptors, that is a `UsersUnreadableError`.
        """
        try:
            with self.path.open(encoding="utf-8") as file:
                is_changeable, advice = find_exposure(os.fstat(file.fileno()).st_mode, self.path)
                lines = file.read().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsersUnreadableError(f"{self.path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsersError(f"{self.path} cannot be read: {error}") from error
        if is_changeable:
            raise UsersError(advice)
        users: dict[str, User] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                user = read_line(line, users)
                users[user.name] = check_user(user)
            except (ValueError, KeyError, UsersError):  # its own words may quote the line
                raise UsersError(f"line {number} of {self.path} is not {SHAPES}") from None
        return users

    @contextmanager
    def change(self) -> Iterator[dict[str, User]]:
        """Change users; see `UserBook.change`."""
        with hold_lock(self._lock_file):
            users = self.read()
            yield users
            self._write(users)

    def _write(self, users: dict[str, User]) -> None:
        text = "".join(line + "\n" for user in users.values() for line in write_lines(user))
        try:
            for left in self.path.parent.glob(f".{self.path.name}.{'[0-9a-f]' * 8}"):
                left.unlink()  # of a change that was killed: it holds hashes, perhaps of users who are gone
            write_file(self.path, text, FOR_OWNER)
        except OSError as error:
            raise UsersError(f"{self.path} cannot be written: {error.strerror}") from error


def read_line(line: str, users: dict[str, User]) -> User:
    """Return the user of a line; raises `ValueError`, or `KeyError` for what belongs to nobody above."""
    name, kind, rest = line.split(":", 2)
    if kind == MODELS_LINE:
        return replace(users[name], models=tuple(rest.split(",")))
    if kind == TOKEN_LINE:
        id_, made, expires, digest = rest.split(":")
        if any(id_ == token.id for user in users.values() for token in user.tokens):
            raise ValueError(id_)
        token = Token(id_, digest, int(made), None if expires == NEVER else int(expires))
        return replace(users[name], tokens=(*users[name].tokens, token))
    before = users.get(name)  # of two lines of one name the later counts, and loosens no bound of the earlier
    return User(name, kind, rest, *((before.models, before.tokens) if before else ()))


def write_lines(user: User) -> list[str]:
    """Return the lines of a user."""
    lines = [f"{user.name}:{user.role}:{user.password_hash}"]
    if user.models:
        lines.append(f"{user.name}:{MODELS_LINE}:{','.join(user.models)}")
    for each in user.tokens:
        expires = NEVER if each.expires is None else each.expires
        lines.append(f"{user.name}:{TOKEN_LINE}:{each.id}:{each.made}:{expires}:{each.digest}")
    return lines
