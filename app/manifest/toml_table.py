"""Reads a TOML table strictly, key by key."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from app.errors import ManifestError
from app.manifest.bounds import Bound, read_number, read_whole, show

WORDS = {2: "two", 3: "three"}
MOST_LIKE = 0.7
"""How much a misspelt key must be like another one, from 0 to 1, to be taken for it."""


class TextRule(NamedTuple):
    """What a text must match, and the same in words for messages, to stand behind "must be"."""

    pattern: re.Pattern[str]
    words: str


class Table:
    """A TOML table whose keys are taken one by one; every method raises `ManifestError` with the key's name.

    `path` stands before a key in a message, e.g. `model.toml: output.`
    """

    def __init__(self, values: Mapping[str, Any], path: str, places: Mapping[str, str] | None = None) -> None:
        """Begin with all keys of a table; `places` says in which table a key of another one belongs, for messages."""
        self._values = dict(values)
        self._path = path
        self._places = places or {}
        self._known: set[str] = set()

    def _take(self, key: str, kinds: tuple[type, ...], default: Any) -> Any:
        self._known.add(key)
        if key not in self._values:
            if default is not ...:
                return default
            raise self.fail(key, f"is missing{suggest('was it meant by', key, self._values)}")
        value = self._values.pop(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ManifestError(f"{self._path}{key} must be of type {names}")
        return value

    def fail(self, key: str, rule: str) -> ManifestError:
        """Make the error for a key that breaks a rule."""
        return ManifestError(f"{self._path}{key} {rule}")

    def text(self, key: str, rule: TextRule | None = None, default: Any = ...) -> Any:
        """Take a string; all of it must match the pattern of `rule`."""
        value = self._take(key, (str,), default)
        if value is not None and rule and not rule.pattern.fullmatch(value):
            raise self.fail(key, f'must be {rule.words}; it is "{show(value)}"')
        return value

    def choice(self, key: str, *choices: str, default: Any = ...) -> str:
        """Take one of a few strings."""
        value = self._take(key, (str,), default)
        if value not in choices:
            raise self.fail(key, f'must be one of {", ".join(choices)}; it is "{show(value)}"')
        return str(value)

    def number(self, key: str, bound: Bound, default: Any = ...) -> Any:
        """Take a number as a float; None only as the default."""
        value = self._take(key, (int, float), default)
        return None if value is None else read_number(f"{self._path}{key}", value, bound)

    def whole(self, key: str, bound: Bound, default: Any = ...) -> int:
        """Take a whole number."""
        return read_whole(f"{self._path}{key}", self._take(key, (int,), default), bound)

    def groups(self, key: str, bound: Bound) -> tuple[tuple[int, ...], ...]:
        """Take a list of lists of whole numbers, none of which is empty."""
        groups = self._take(key, (list,), ...)
        if not groups or not all(isinstance(group, list) and group for group in groups):
            raise self.fail(key, "must be lists of whole numbers in a list")
        return tuple(tuple(read_whole(f"{self._path}{key}", each, bound) for each in group) for group in groups)

    def numbers(self, key: str, bound: Bound, count: int) -> tuple[float, ...]:
        """Take a list of numbers: three, one a channel, or one a class."""
        values = self._take(key, (list,), ...)
        if len(values) != count or any(isinstance(value, str) for value in values):
            raise self.fail(key, f"must be {WORDS.get(count, count)} numbers {bound.describe()}")
        return tuple(read_number(f"{self._path}{key}", value, bound) for value in values)

    def wholes(self, key: str, bound: Bound, count: int) -> tuple[int, ...]:
        """Take a list of whole numbers."""
        values = self._take(key, (list,), ...)
        if len(values) != count:
            raise self.fail(key, f"must be {count} whole numbers {bound.describe()}")
        return tuple(read_whole(f"{self._path}{key}", value, bound) for value in values)

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of distinct, non-empty strings."""
        values = self._take(key, (list,), ...)
        if not all(isinstance(value, str) and value for value in values) or len(set(values)) != len(values):
            raise self.fail(key, "must be distinct, non-empty strings")
        return tuple(values)

    def table(self, key: str, default: Any = ...) -> "Table":
        """Take a table."""
        return Table(self._take(key, (dict,), default), f"{self._path}{key}.", self._places)

    def names(self) -> tuple[str, ...]:
        """Return the keys that nobody took yet."""
        return tuple(self._values)

    def end(self) -> None:
        """Refuse keys that nobody took: a misspelt key must not be ignored in silence."""
        if self._values:
            keys = ", ".join(self._values)
            place = self._places.get(keys)
            is_elsewhere = place is not None and not self._path.endswith(f"{place[1:-1]}.")
            hint = f"; it belongs to {place}" if is_elsewhere else suggest("did you mean", keys, self._known)
            raise self.fail(keys, f"is not known{hint}")


def suggest(question: str, key: str, others: Iterable[str]) -> str:
    """Ask for the key most like another one, to be written behind a message; nothing if none is like it."""
    close = get_close_matches(key, others, 1, MOST_LIKE)
    return f"; {question} {close[0]}?" if close else ""
