"""Every promise of SECURITY.md names tests that are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROMISES = re.findall(r"^\| (.*?) \| (.*) \|$", PAGE.partition("## What is promised")[2], re.MULTILINE)
ROWS = [(promise, tests) for promise, tests in PROMISES if promise not in ("promise", "---")]


@cache
def list_tests(file: Path) -> set[str]:
    """The tests of a file that are not skipped whatever the machine."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            marks = [ast.unparse(each) for each in node.decorator_list]
            if not any(mark.startswith(("pytest.mark.skip(", "pytest.mark.xfail")) for mark in marks):
                found.add(node.name)
    return found


def test_page_has_its_parts_in_order() -> None:
    parts = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert parts == ["Who attacks, and with what", "What is promised", "What is not promised", "How to report"]
    assert len(ROWS) >= 25


@pytest.mark.parametrize("promise, tests", ROWS, ids=[promise[:40] for promise, _ in ROWS])
def test_promise_names_tests_that_are_there(promise: str, tests: str) -> None:
    named = re.findall(r"\[(\w+)\]\(([\w/.]+)\)", tests)
    assert named
    assert ", ".join(f"[{name}]({file})" for name, file in named) == tests  # and nothing else
    for name, file in named:
        assert file.startswith("tests/")
        assert name.startswith("test_")
        assert name in list_tests(PROJECT_ROOT / file), f"{file} has no {name}"
