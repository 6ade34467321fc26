"""Subgroups of the pictures, by columns of a table (CSV) that the user has."""

import csv
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.errors import PicturesError
from app.evaluation.estimates import Estimate
from app.evaluation.labelled_folder import LabelledPicture
from app.evaluation.report.picture_table import AnswerTable, estimate_if_any

FILE_COLUMN = "file"
ABSENT, EMPTY = "(not in the table)", "(empty)"
MAX_GROUPS = 40
"""A column with more values is taken for an identifier, which does not belong in a report."""


@dataclass(frozen=True)
class Grouping:
    """A column of the table, and its value for each picture, in the pictures' order."""

    column: str
    values: list[str]


@dataclass(frozen=True)
class GroupFigures:
    """Figures of the pictures that have one value; None where they do not tell a figure, and `note` says why.

    Attributes:
        value: what the column says of them.
        pictures: how many of each class.
        auc: as `models evaluate` measures it.
        decisions: sensitivity and specificity, or the accuracy.
        refused: share that the service would refuse as another kind of picture.
    """

    value: str
    pictures: dict[str, int]
    auc: Estimate | None
    decisions: dict[str, Estimate | None]
    refused: Estimate | None
    note: str


def read_groupings(
    manifest: Path | None, columns: Sequence[str], pictures: Sequence[LabelledPicture]
) -> list[Grouping]:
    """Read the columns of a CSV file with a header; its column `file` ends in the name of a picture.

    A row counts for a picture if its last folder and name agree, or else its name alone. Raises `PicturesError` if the
    file cannot be used, if it says two things of one picture, or if a column has too many values to be of subgroups.
    """
    if manifest is None:
        return []
    rows = read_rows(manifest, columns, {picture.path.parent.name for picture in pictures})
    names = Counter(picture.path.name for picture in pictures)
    said = [find_row(rows, picture, names[picture.path.name] == 1) for picture in pictures]
    if not any(said):
        raise PicturesError(f"{manifest.name} names none of the pictures in its column {FILE_COLUMN}")
    groupings = []
    for index, column in enumerate(columns):
        values = [row[index] if row else ABSENT for row in said]
        if (count := len(set(values))) > MAX_GROUPS:
            raise PicturesError(f"the column {column} has {count} values; at most {MAX_GROUPS} can be subgroups")
        groupings.append(Grouping(column, values))
    return groupings


def read_rows(manifest: Path, columns: Sequence[str], folders: Collection[str]) -> dict[str, set[tuple[str, ...]]]:
    """Read what a CSV file says of each picture, by folder and name; raises `PicturesError`.

    Also by the name alone, unless the row says one of the pictures' own `folders`.
    """
    rows: dict[str, set[tuple[str, ...]]] = {}
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {FILE_COLUMN, *columns} - set(reader.fieldnames or ())
            if missing:
                raise PicturesError(f"{manifest.name} has no column {', '.join(sorted(missing))}")
            for row in reader:
                path = Path((row[FILE_COLUMN] or "").strip().replace("\\", "/"))
                said = tuple((row[column] or "").strip() or EMPTY for column in columns)
                rows.setdefault(f"{path.parent.name}/{path.name}", set()).add(said)
                if path.parent.name not in folders:
                    rows.setdefault(path.name, set()).add(said)
    except OSError as error:
        raise PicturesError(f"{manifest.name} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise PicturesError(f"{manifest.name} is no CSV file in UTF-8: {error}") from error
    return rows


def find_row(rows: Mapping[str, set[tuple[str, ...]]], picture: LabelledPicture, has_own_name: bool) -> tuple[str, ...]:
    """Return what the rows say of a picture, nothing if it is in none; raises `PicturesError` if they disagree.

    The file's name alone finds a row only where no other picture has that name.
    """
    said = rows.get(picture.name) or (rows.get(picture.path.name) if has_own_name else None) or {()}
    if len(said) > 1:
        raise PicturesError(f"the table says different things of {picture.name}")
    return next(iter(said))


def measure_groups(table: AnswerTable, values: Sequence[str]) -> list[GroupFigures]:
    """Measure the pictures of each value, the most pictures first; `values` has one for each row of the table."""
    array = np.array(values, dtype=object)  # an array of texts would drop a NUL at the end
    groups = [measure_group(value, table.select(array == value)) for value in sorted(set(values))]
    return sorted(groups, key=lambda group: -sum(group.pictures.values()))


def measure_group(value: str, table: AnswerTable) -> GroupFigures:
    """Measure the pictures of one value."""
    counts = table.count_classes()
    scarce = [f"{count or 'no'} picture{'s' * (count != 1)} of {name}" for name, count in counts.items() if count < 2]
    note = f"no AUC: {', '.join(scarce)}" if scarce else ""
    refused = None if table.fits is None else estimate_if_any(~table.fits)
    return GroupFigures(value, counts, table.measure_auc(), table.measure_decisions(), refused, note)
