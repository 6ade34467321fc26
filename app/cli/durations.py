"""Spans of time as options of commands take them."""

import re

import click


class Duration(click.ParamType[int | None]):
    """A span such as `90d` or `12h`; `never` stands for no end, unless it `has_end`."""

    name = "duration"

    def __init__(self, has_end: bool = False) -> None:
        self._has_end = has_end

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return whole seconds, or None for `never`."""
        found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", value)
        if found is None and (value != "never" or self._has_end):
            end = "" if self._has_end else ", or never"
            self.fail(f"it must be a number of minutes, hours or days, as 30m, 12h or 90d{end}", param, ctx)
        return int(found[1]) * {"m": 60, "h": 3600, "d": 86400}[found[2]] if found else None
