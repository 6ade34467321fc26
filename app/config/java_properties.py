"""Reads `.properties`, Java's format of settings."""

import re
from collections.abc import Iterator


def parse_properties(text: str) -> dict[str, str]:
    r"""Read Java's format: `key=value`, `key: value` or `key value`, comments, escapes, lines that go on after a `\`.

    Raises:
        ValueError: an escape is malformed.
    """
    properties = {}
    for line in join_lines(text):
        found = re.fullmatch(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", line, re.DOTALL)
        assert found is not None, "every line matches"
        properties[unescape(found[1])] = unescape(found[2]).rstrip()
    return properties


def join_lines(text: str) -> Iterator[str]:
    r"""Yield the lines that are neither empty nor comments, each joined with the lines that continue it."""
    begun = ""
    for natural in re.split(r"\r\n|\r|\n", text):
        line = natural.lstrip(" \t\f")
        if not begun and line[:1] in ("", "#", "!"):
            continue
        line = begun + line
        goes_on = (len(line) - len(line.rstrip("\\"))) % 2
        begun = line[:-1] if goes_on else ""
        if not goes_on:
            yield line
    if begun:
        yield begun


def unescape(text: str) -> str:
    r"""Replace Java's escapes: `\t`, `\n`, `\r`, `\f`, `\uXXXX`; any other character stands for itself."""

    def replace(match: re.Match[str]) -> str:
        escaped = match[1]
        if escaped[0] != "u":
            return {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(escaped, escaped)
        if not re.fullmatch("u[0-9a-fA-F]{4}", escaped):
            raise ValueError(rf"\{escaped} is no character")
        return chr(int(escaped[1:], 16))

    return re.sub(r"\\(u.{0,4}|.)", replace, text, flags=re.DOTALL)
