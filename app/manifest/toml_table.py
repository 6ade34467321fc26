"""A TOML table that is read strictly."""

import re
from collections.abc import Mapping
from typing import Any

from app.errors import ManifestError


class Table:
    """A TOML table that is read key by key: a wrong type, a missing key or a leftover key names itself.

    Args:
        values: what the table holds.
        path: what stands before a key in a message: file and tables.
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
        """Make the error that says which rule a key breaks."""
        return ManifestError(f"{self._path}{key} {rule}")

    def text(self, key: str, pattern: re.Pattern[str] | None = None, default: Any = ...) -> Any:
        """Take a string, matching `pattern` as a whole."""
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

    def number(self, key: str, low: float, high: float, default: Any = ...) -> Any:
        """Take a number from `low` to `high` as a float."""
        value = self._take(key, (int, float), default)
        if value is None:
            return None
        if not low <= value <= high:  # NaN fails here too
            raise self.fail(key, f"must be from {low} to {high}")
        return float(value)

    def whole(self, key: str, low: int, high: int, default: Any = ...) -> int:
        """Take a whole number from `low` to `high`."""
        value = self._take(key, (int,), default)
        if not low <= value <= high:
            raise self.fail(key, f"must be from {low} to {high}")
        return int(value)

    def numbers(self, key: str, low: float, high: float) -> tuple[float, float, float]:
        """Take three numbers, one a channel."""
        values = self._take(key, (list,), ...)
        if len(values) != 3 or not all(type(value) in (int, float) and low <= value <= high for value in values):
            raise self.fail(key, f"must be three numbers from {low} to {high}")
        return float(values[0]), float(values[1]), float(values[2])

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
        """The keys not taken yet."""
        return tuple(self._values)

    def end(self) -> None:
        """Refuse what was not taken: a misspelt key must not be ignored in silence."""
        if self._values:
            raise self.fail(", ".join(self._values), "is not known")
