"""The table: one line of CSV for each picture, in a file that a stopped command goes on with."""

import csv
import fcntl
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from app.errors import PicturesError, UnfitImageError

COLUMNS = (
    *("name", "score", "class", "threshold", "cannot_tell", "fit", "reasons", "warnings", "error"),
    *("confidence", "model", "version"),
)
FAILED, UNFIT = "failed", "not of the model's kind"
"""What is counted beside the classes."""
FORMULA = ("=", "+", "-", "@")
"""A spreadsheet takes a cell that begins so for a formula, and runs it."""
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
HEADER = (",".join(COLUMNS) + "\n").encode()
Row = dict[str, str]


@dataclass(frozen=True)
class Asked:
    """Who answers: a version, and the threshold by which it decides; None: it has no positive class."""

    model: str
    version: str
    threshold: float | None
    takes_unfit: bool

    def to_cells(self) -> Row:
        """Return the cells that are the same in every row."""
        return {"model": self.model, "version": self.version, "threshold": write_value(self.threshold)}


def write_name(path: str) -> str:
    """Write a path as one line of valid UTF-8 that no spreadsheet takes for a formula: `=a.png` becomes `./=a.png`."""
    name = os.fsencode(path.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")
    plain = escape_controls(name)
    return plain if plain[0].isalnum() or plain[0] in "./_" else f"./{plain}"


def write_text(text: str) -> str:
    """Write words that came from elsewhere as one line; an apostrophe keeps a spreadsheet from running them."""
    plain = escape_controls(text)
    return f"'{plain}" if plain.lstrip().startswith(FORMULA) else plain


def escape_controls(text: str) -> str:
    """Write line ends and other control characters as `\\n`, `\\x1b` and so on."""
    return CONTROLS.sub(write_control, text)


def write_control(found: re.Match[str]) -> str:
    """Write a control character in ASCII; above 7f as `\\u0085`, since `\\x85` stands for a byte that is no text."""
    return ascii(found[0])[1:-1] if found[0] <= "\x7f" else f"\\u{ord(found[0]):04x}"


def write_value(value: float | bool | None) -> str:
    """Write a number or a yes or no; what is unknown is empty."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def make_row(path: str, answer: Mapping[str, Any], asked: Asked) -> Row:
    """Make the row of one picture from the JSON that the service answers: a prediction or an error."""
    row = dict.fromkeys(COLUMNS, "") | {"name": write_name(path)} | asked.to_cells()
    fit = answer.get("fit", {})
    row |= {"fit": write_value(fit.get("fits")), "reasons": write_text("; ".join(fit.get("reasons", ())))}
    if "class" in answer:
        row |= {name: write_value(answer.get(name)) for name in ("score", "confidence", "cannot_tell")}
        row |= {"class": write_text(answer["class"]), "warnings": write_text("; ".join(answer.get("warnings", ())))}
    elif answer.get("type") != UnfitImageError.type:
        row["error"] = write_text(answer["message"])
    return row


def name_outcome(row: Row) -> str:
    """Name what became of a picture: its class, or that it has none and why."""
    return FAILED if row["error"] else row["class"] or UNFIT


@contextmanager
def open_table(file: Path) -> Iterator[BinaryIO]:
    """Open a table to read it and to add to it, for this process alone.

    Raises `PicturesError` if another command is writing it, or if it cannot be opened.
    """
    try:
        stream = file.open("a+b")
    except OSError as error:
        raise PicturesError(f"{file} cannot be opened: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PicturesError(f"{file}: another command is writing this table") from None
        yield stream


class AnswerTable:
    """The rows of a table, in the order of the pictures; `outcomes` counts what became of them."""

    def __init__(self, stream: BinaryIO, asked: Asked) -> None:
        self.outcomes: Counter[str] = Counter()
        self._stream = stream
        self._asked = asked

    def begin(self) -> None:
        """Write the header."""
        self._stream.write(HEADER)
        self._stream.flush()

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows and leave none in memory."""
        lines = io.StringIO()
        for row in rows:
            # A spreadsheet may separate cells by semicolons; quoted ones stay whole there too.
            quoting: Literal[0, 1] = csv.QUOTE_ALL if any(";" in cell for cell in row.values()) else csv.QUOTE_MINIMAL
            csv.writer(lines, lineterminator="\n", quoting=quoting).writerow([row[name] for name in COLUMNS])
        self._stream.write(lines.getvalue().encode())
        self._stream.flush()
        self.outcomes.update(map(name_outcome, rows))

    def resume(self, paths: Sequence[str], group: int) -> list[str]:
        """Keep what stands in a table and return the paths that are still to be asked, in their order.

        A last line that broke off goes. So does the last group of pictures that were asked together, if only a part of
        it stands: then the table becomes what one run would have written. Raises `PicturesError` if the file is no such
        table, or one of other answers.
        """
        names = [write_name(path) for path in paths]
        outcomes, ends, kept = [], [0], []
        self._stream.seek(0)
        for number, line in enumerate(self._stream):
            if not line.endswith(b"\n") and (number or HEADER.startswith(line)):
                break
            ends.append(ends[-1] + len(line))
            if number == 0:
                require_header(line)
                continue
            row = self._read_row(line, number + 1)
            kept.append(row["name"])
            outcomes.append(name_outcome(row))
        count = len(kept)
        if kept == names[:count] and count < len(names):
            count -= count % group
        self._stream.truncate(ends[min(count + 1, len(ends) - 1)])
        if len(ends) == 1:
            self.begin()
        self.outcomes.update(outcomes[:count])
        stands = set(kept[:count])
        return [path for path, name in zip(paths, names, strict=True) if name not in stands]

    def _read_row(self, line: bytes, number: int) -> Row:
        """Read a row; raises `PicturesError` if it is malformed, or if something else answered."""
        try:
            cells = next(csv.reader([line.decode()], strict=True))
            row = dict(zip(COLUMNS, cells, strict=True))
        except (ValueError, csv.Error) as error:
            raise PicturesError(f"line {number} of the table is malformed; choose another file for this run") from error
        for column, cell in self._asked.to_cells().items():
            if row[column] != cell:
                raise PicturesError(
                    f"line {number} of the table has the {column} {row[column] or 'none'}, this run {cell or 'none'}; "
                    "choose another file for this run"
                )
        if row["fit"] == "false" and bool(row["class"]) != self._asked.takes_unfit and not row["error"]:
            raise PicturesError(f"line {number} of the table was made with another --unfit; choose another file")
        return row


def require_header(line: bytes) -> None:
    """Raise `PicturesError` unless a file begins as a table does: nothing else is written into."""
    if line != HEADER:
        raise PicturesError("the file is no table of this command; choose another file for this run")
