"""The guides to users and logs: each command is one that there is, and each line one that the server writes."""

import json
import re
import shlex

import click
import pytest
from flask import Flask

from app.config.setting_types import PROJECT_ROOT
from app.logs import FIELDS

GUIDES = PROJECT_ROOT / "get_started"
COMMANDS = re.findall(r"^ *(flask .*)$", (GUIDES / "users.md").read_text("utf-8"), re.MULTILINE)
LINES = re.findall(r"^ *(\{\"time\".*\})$", (GUIDES / "logs.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_of_the_guide_is_understood(app: Flask, line: str) -> None:
    command: click.Command = app.cli
    _, *words = shlex.split(line.replace("/path/to/users", str(PROJECT_ROOT / "README.md")))
    context = click.Context(command)
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        assert command is not None, name
    command.make_context(command.name, words)  # it fails for an option or a value that is not taken


def test_guide_shows_commands_and_four_lines_of_json() -> None:
    assert len(COMMANDS) == 13
    assert len(LINES) == 4


@pytest.mark.parametrize("line", LINES)
def test_line_of_the_guide_has_the_fields_of_the_log(line: str) -> None:
    given = list(json.loads(line))
    assert given[:4] == ["time", "level", "logger", "message"]
    assert given[4:] == [name for name in FIELDS if name in given]
    fields = (GUIDES / "logs.md").read_text("utf-8").partition("## Fields")[2].partition("\n## ")[0]
    assert {name for name in given if f"`{name}`" not in fields} == set()
