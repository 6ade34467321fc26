"""Reads a TOML table strictly, key by key."""

import re
from collections.abc import Mapping
from typing import Any

from app.errors import ManifestError
from app.manifest.bounds import Bound, read_number, read_whole


class Table:
    """A TOML table whose keys are taken one by one; every method raises `ManifestError` with the key's name.

    `path` stands before a key in a message, e.g. `model.toml: output.`
    """

    def __init__(self, values: Mapping[str, Any], path: str) -> None:
        self._values = dict(values)
        self._path = path

    def _take(self, key: str, kinds: tuple[type, ...], default: Any) -> Any:
        if key not in self._values:
            if default is not ...:
                return default
            raise ManifestError(f"{self._path}{key} is missing")
        value = self._values.pop(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ManifestError(f"{self._path}{key} must be of type {names}")
        return value

    def fail(self, key: str, rule: str) -> ManifestError:
        """Make the error for a key that breaks a rule."""
        return ManifestError(f"{self._path}{key} {rule}")

    def text(self, key: str, pattern: re.Pattern[str] | None = None, default: Any = ...) -> Any:
        """Take a string; all of it must match `pattern`."""
        value = self._take(key, (str,), default)
        if value is not None and pattern and not pattern.fullmatch(value):
            raise self.fail(key, f"must match {pattern.pattern}")
        return value

    def choice(self, key: str, *choices: str, default: Any = ...) -> str:
        """Take one of a few strings."""
        value = self._take(key, (str,), default)
        if value not in choices:
            raise self.fail(key, f"must be one of {', '.join(choices)}")
        return str(value)

    def number(self, key: str, bound: Bound, default: Any = ...) -> Any:
        """Take a number as a float; None only as the default."""
        value = self._take(key, (int, float), default)
        return None if value is None else read_number(f"{self._path}{key}", value, bound)

    def whole(self, key: str, bound: Bound, default: Any = ...) -> int:
        """Take a whole number."""
        return read_whole(f"{self._path}{key}", self._take(key, (int,), default), bound)

    def numbers(self, key: str, bound: Bound) -> tuple[float, float, float]:
        """Take three numbers, one a channel."""
        values = self._take(key, (list,), ...)
        if len(values) != 3 or any(isinstance(value, str) for value in values):
            raise self.fail(key, f"must be three numbers {bound.describe()}")
        red, green, blue = (read_number(f"{self._path}{key}", value, bound) for value in values)
        return red, green, blue

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of distinct, non-empty strings."""
        values = self._take(key, (list,), ...)
        if not all(isinstance(value, str) and value for value in values) or len(set(values)) != len(values):
            raise self.fail(key, "must be distinct, non-empty strings")
        return tuple(values)

    def table(self, key: str, default: Any = ...) -> "Table":
        """Take a table."""
        return Table(self._take(key, (dict,), default), f"{self._path}{key}.")

    def names(self) -> tuple[str, ...]:
        """Return the keys that nobody took yet."""
        return tuple(self._values)

    def end(self) -> None:
        """Refuse keys that nobody took: a misspelt key must not be ignored in silence."""
        if self._values:
            raise self.fail(", ".join(self._values), "is not known")
