"""The table of answers: what its cells say, and that a table that broke off anywhere becomes what one run writes."""

import csv
import io
import random
from pathlib import Path

import pytest

from app.cli.classifying.answer_table import FAILED, UNFIT, AnswerTable, Asked, make_row, open_table, write_name
from app.errors import PicturesError

ASKED = Asked("tiny", "1.0", 0.25, takes_unfit=False)
GROUP = 4
PATHS = [f"scans/é {index}.png" for index in range(10)]


def answer(path: str) -> dict[str, object]:
    """An answer that is another one for each path, among them errors and pictures of another kind."""
    number = int(path.rsplit(maxsplit=1)[-1].removesuffix(".png"))
    if number % 5 == 3:
        return {"code": 422, "type": "DamagedImageException", "message": 'cut, "short"\nand bad'}
    if number % 5 == 4:
        fit = {"fits": False, "reasons": ["too dark", "blurred"]}
        return {"code": 422, "type": "UnfitImageException", "message": "of another kind", "fit": fit}
    score = random.Random(number).random()
    fit = {"fits": True, "reasons": []}
    return {
        "class": "bad",
        "score": score,
        "confidence": score,
        "cannot_tell": True,
        "fit": fit,
        "warnings": ["a", "b"],
    }


def write(file: Path, paths: list[str], asked: Asked = ASKED) -> AnswerTable:
    with open_table(file) as stream:
        table = AnswerTable(stream, asked)
        left = table.resume(paths, GROUP)
        for start in range(0, len(left), GROUP):
            table.add([make_row(path, answer(path), asked) for path in left[start : start + GROUP]])
        return table


def test_table_that_broke_off_at_any_byte_becomes_what_one_run_writes(tmp_path: Path) -> None:
    write(tmp_path / "whole.csv", PATHS)
    whole = (tmp_path / "whole.csv").read_bytes()
    for end in range(len(whole) + 1):
        (tmp_path / "torn.csv").write_bytes(whole[:end])
        table = write(tmp_path / "torn.csv", PATHS)
        assert (tmp_path / "torn.csv").read_bytes() == whole, end
        assert table.outcomes == {"bad": 6, FAILED: 2, UNFIT: 2}


def test_finished_table_asks_nothing_and_one_of_a_grown_folder_asks_what_is_new(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    write(file, PATHS[2:])
    for paths, left in ((PATHS[2:], []), (PATHS, PATHS[:2])):
        with open_table(file) as stream:
            assert AnswerTable(stream, ASKED).resume(paths, GROUP) == left


def test_group_that_stands_in_part_is_asked_again_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    write(file, PATHS)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: 1 + GROUP + 1]))
    with open_table(file) as stream:
        assert AnswerTable(stream, ASKED).resume(PATHS, GROUP) == PATHS[GROUP:]


@pytest.mark.parametrize(
    "asked, reason",
    [
        (Asked("other", "1.0", 0.25, takes_unfit=False), "the model tiny, this run other"),
        (Asked("tiny", "1.1", 0.25, takes_unfit=False), "the version 1.0, this run 1.1"),
        (Asked("tiny", "1.0", 0.5, takes_unfit=False), "the threshold 0.25, this run 0.5"),
        (Asked("tiny", "1.0", None, takes_unfit=False), "the threshold 0.25, this run none"),
        (Asked("tiny", "1.0", 0.25, takes_unfit=True), "another --unfit"),
    ],
)
def test_table_of_other_answers_is_refused_and_left_alone(tmp_path: Path, asked: Asked, reason: str) -> None:
    file = tmp_path / "table.csv"
    write(file, PATHS)
    before = file.read_bytes()
    with pytest.raises(PicturesError, match=reason):
        write(file, PATHS, asked)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"name,age\nada,36\n", b"my thesis, unsaved", b"\x89PNG\r\n\x1a\n", b"name,score\n"]
)
def test_other_files_are_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(PicturesError, match="no table of this command"):
        write(file, PATHS)
    assert file.read_bytes() == content


def test_malformed_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    write(file, PATHS)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], b"\xff,\n", *lines[3:]]))
    with pytest.raises(PicturesError, match="line 4 of the table is malformed"):
        write(file, PATHS)


def test_table_that_another_command_writes_is_refused(tmp_path: Path) -> None:
    with open_table(tmp_path / "table.csv"), pytest.raises(PicturesError, match="another command"):
        write(tmp_path / "table.csv", PATHS)


@pytest.mark.parametrize(
    "name", ["=1+1.png", "+1.png", "-1.png", "@SUM(A1).png", "\t=1.png", " =1.png", "＝1.png", "'.png"]
)
def test_no_name_is_a_formula_and_each_still_leads_to_its_file(name: str) -> None:
    assert write_name(name).startswith("./")
    assert write_name(name).removeprefix("./").replace("\\t", "\t") == name


def test_plain_names_stay_as_they_are() -> None:
    for name in ("a.png", "1.png", "./a.png", "/a/=b.png", "../-a.png", "_a.png", "\u00e4\u202f\u3000.png"):
        assert write_name(name) == name


def test_every_row_is_one_line_of_utf_8(tmp_path: Path) -> None:
    names = ["b\x85.png", "b\udc85.png", "a\nb.png", "a\rb.png", "bad\udcff.png", "\x1b[31m.png", 'a,"b.png']
    with open_table(tmp_path / "table.csv") as stream:
        table = AnswerTable(stream, ASKED)
        table.begin()
        told = {"code": 400, "type": "BadRequestException", "message": "=cmd|' /C calc'!A0\r\nof a server"}
        table.add([make_row(name, told, ASKED) for name in names])
    lines = (tmp_path / "table.csv").read_bytes().decode().split("\n")
    assert len(lines) == 1 + len(names) + 1
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert [row["name"] for row in rows] == [
        r"b\u0085.png",
        r"b\x85.png",
        r"a\nb.png",
        r"a\rb.png",
        r"bad\xff.png",
        r"./\x1b[31m.png",
        'a,"b.png',
    ]
    assert {row["error"] for row in rows} == {r"'=cmd|' /C calc'!A0\r\nof a server"}


def test_unknown_values_are_empty() -> None:
    asked = Asked("many", "1.0", None, takes_unfit=False)
    row = make_row("a.png", {"class": "c", "confidence": 0.5, "fit": {"fits": None, "reasons": []}}, asked)
    filled = {"name": "a.png", "class": "c", "confidence": "0.5", "model": "many", "version": "1.0"}
    assert {column: cell for column, cell in row.items() if cell} == filled
