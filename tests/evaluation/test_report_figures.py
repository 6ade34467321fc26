"""The figures of a report, held against scikit-learn and SciPy on random scores, many of which are equal."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from app.errors import PicturesError
from app.evaluation.estimates import Estimate
from app.evaluation.labelled_folder import LabelledPicture
from app.evaluation.report.class_figures import ClassFigures, measure_classes
from app.evaluation.report.operating_table import OWN, expect, list_operating_rows
from app.evaluation.report.picture_table import AnswerTable
from app.evaluation.report.subgroups import ABSENT, EMPTY, MAX_GROUPS, measure_groups, read_groupings
from app.evaluation.report.version_comparison import compare_group, find_p_value
from app.manifest.model_specs import OutputSpec

TWO = OutputSpec(("normal", "metastatic"), "softmax", "metastatic", 0.4, "a test")
THREE = OutputSpec(("a", "b", "c"), "softmax", None, None, None)
TIES = 64
"""Scores are multiples of a 64th, so that many are equal and none lies on the border of two of 15 bins."""


def draw_two(seed: int, count: int = 400) -> tuple[NDArray[np.bool_], NDArray[np.float64], AnswerTable]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    scores = np.round(np.clip(random.normal(0.35 + 0.3 * labels, 0.25), 0, 1) * TIES) / TIES
    decided = (scores >= 0.4).astype(np.int64)
    return labels == 1, scores, AnswerTable(TWO, labels, decided, np.stack([1 - scores, scores], 1), None, None)


def measure_one(table: AnswerTable) -> ClassFigures:
    (figures,) = measure_classes(table)
    return figures


@pytest.mark.parametrize("seed", range(5))
def test_roc_curve_is_scikit_learns(seed: int) -> None:
    is_positive, scores, table = draw_two(seed)
    figures = measure_one(table)
    alarms, found, thresholds = roc_curve(is_positive, scores, drop_intermediate=False)
    assert [0.0, *figures.curve.false_alarms] == pytest.approx(alarms)
    assert [0.0, *figures.curve.recalls] == pytest.approx(found)
    assert figures.curve.thresholds == pytest.approx(thresholds[1:])
    assert len(thresholds) < TIES + 3  # equal scores are one point
    assert figures.auc.value == pytest.approx(roc_auc_score(is_positive, scores))


@pytest.mark.parametrize("seed", range(5))
def test_precision_recall_curve_is_scikit_learns(seed: int) -> None:
    is_positive, scores, table = draw_two(seed)
    figures = measure_one(table)
    precisions, recalls, _ = precision_recall_curve(is_positive, scores)
    assert figures.curve.precisions[::-1] == pytest.approx(precisions[:-1])
    assert figures.curve.recalls[::-1] == pytest.approx(recalls[:-1])
    assert figures.average_precision == pytest.approx(average_precision_score(is_positive, scores))


@pytest.mark.parametrize("seed", range(5))
def test_reliability_is_scikit_learns(seed: int) -> None:
    is_positive, scores, table = draw_two(seed)
    figures = measure_one(table)
    true, said = calibration_curve(is_positive, scores, n_bins=15)
    filled = [each for each in figures.bins if each.share is not None]
    assert [each.mean_score for each in filled] == pytest.approx(said)
    assert [each.share.value for each in filled if each.share] == pytest.approx(true)
    assert all(each.low <= (each.mean_score or 0) <= each.high for each in filled)
    weights = np.array([each.pictures for each in filled]) / len(scores)
    assert figures.calibration_error == pytest.approx((weights * np.abs(true - said)).sum())
    assert sum(each.pictures for each in figures.bins) == len(scores)


def test_histogram_counts_every_picture_once_in_its_bin() -> None:
    is_positive, scores, table = draw_two(0)
    figures = measure_one(table)
    bins = np.minimum((scores * 20).astype(int), 19)
    assert figures.histogram == [int((bins[is_positive] == each).sum()) for each in range(20)]
    assert figures.histogram_others == [int((bins[~is_positive] == each).sum()) for each in range(20)]


@pytest.mark.parametrize("seed", range(5))
def test_each_threshold_has_the_shares_of_scikit_learns_confusion_matrix(seed: int) -> None:
    is_positive, scores, table = draw_two(seed)
    rows = list_operating_rows(table)
    assert (rows[0].rule, rows[0].threshold) == (OWN, 0.4)
    for row in rows:
        assert row.threshold is not None
        true_negatives, alarms, missed, found = confusion_matrix(is_positive, scores >= row.threshold).ravel()
        assert row.sensitivity.value == found / (found + missed)
        assert row.specificity.value == true_negatives / (true_negatives + alarms)
        assert row.ppv is not None
        assert (row.ppv.value, row.ppv.n) == (found / (found + alarms), found + alarms)
        assert row.npv is not None
        assert (row.npv.value, row.npv.n) == (true_negatives / (true_negatives + missed), true_negatives + missed)
        figure, least = row.rule.partition(" of ")[::2]
        if least:
            assert getattr(row, figure).value >= float(least.split()[0]) / 100


def test_specificity_that_no_threshold_reaches_has_no_row() -> None:
    labels, scores = np.array([0] * 10 + [1] * 10), np.array([0.1] * 9 + [1.0] * 11)
    table = AnswerTable(TWO, labels, (scores >= 0.4).astype(np.int64), np.stack([1 - scores, scores], 1), None, None)
    rules = [row.rule for row in list_operating_rows(table)]
    assert rules[-2:] == ["specificity of 80 % or more", "specificity of 90 % or more"]


def test_threshold_that_nothing_reaches_has_no_ppv() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.2, 0.3])
    table = AnswerTable(TWO, labels, np.zeros(4, np.int64), np.stack([1 - scores, scores], 1), None, None)
    own = list_operating_rows(table)[0]
    assert own.ppv is None
    assert own.npv == pytest.approx(Estimate(0.5, own.npv.low, own.npv.high, 4)) if own.npv else False
    assert [each.value for each in own.expected] == [None] * 3


def test_rare_class_makes_a_positive_answer_right_less_often() -> None:
    sensitivity, specificity = Estimate(0.9, 0.85, 0.95, 100), Estimate(0.85, 0.8, 0.9, 100)
    shares = {each: expect(each, sensitivity, specificity) for each in (0.02, 0.1, 0.5)}
    assert [round(100 * (each.value or 0)) for each in shares.values()] == [11, 40, 86]  # as calibrate_and_fit.md says
    for each in shares.values():
        assert (each.low or 1) < (each.value or 0) < (each.high or 0)


def test_curve_as_numbers_is_the_best_that_a_threshold_reaches() -> None:
    is_positive, scores, table = draw_two(3)
    curve = measure_one(table).curve
    for limit in (0.0, 0.02, 0.1, 0.5, 1.0):
        reached = [(scores >= each) for each in np.unique(scores) if (scores[~is_positive] >= each).mean() <= limit]
        assert curve.recall_at(limit) == max((each[is_positive].mean() for each in reached), default=0)
        found = [(scores >= each) for each in np.unique(scores) if (scores[is_positive] >= each).mean() >= limit]
        assert curve.precision_at(limit) == max(is_positive[each].mean() for each in found)


def test_each_of_three_classes_is_measured_against_the_rest() -> None:
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 3, 300), random.random((300, 3))
    scores[np.arange(300), labels] += 0.3
    scores /= scores.sum(axis=1, keepdims=True)
    table = AnswerTable(THREE, labels, scores.argmax(axis=1), scores, None, None)
    figures = measure_classes(table)
    assert [each.class_name for each in figures] == ["a", "b", "c"]
    for index, (each, row) in enumerate(zip(figures, list_operating_rows(table), strict=True)):
        assert each.auc.value == pytest.approx(roc_auc_score(labels == index, scores[:, index]))
        assert (row.rule, row.threshold) == (each.class_name, None)
        matrix = confusion_matrix(labels == index, table.decided == index)
        assert row.sensitivity.value == matrix[1, 1] / matrix[1].sum()
    assert table.count_answers() == confusion_matrix(labels, table.decided).tolist()
    assert list(table.measure_decisions()) == ["accuracy"]


def test_subgroups_are_measured_apart_and_one_without_a_class_says_so() -> None:
    is_positive, scores, table = draw_two(1)
    values = np.array(["A", "B"], dtype=object)[np.arange(len(scores)) % 2]
    values[is_positive & (np.arange(len(scores)) % 7 == 0)] = "only metastatic"
    groups = {group.value: group for group in measure_groups(table, values.tolist())}
    assert sum(sum(group.pictures.values()) for group in groups.values()) == len(scores)
    for name in ("A", "B"):
        rows = values == name
        assert groups[name].auc is not None
        assert groups[name].auc.value == pytest.approx(roc_auc_score(is_positive[rows], scores[rows]))
        sensitivity = groups[name].decisions["sensitivity"]
        assert sensitivity is not None
        assert sensitivity.value == (scores[rows & is_positive] >= 0.4).mean()
    lone = groups["only metastatic"]
    assert (lone.auc, lone.decisions["specificity"], lone.refused) == (None, None, None)
    assert lone.note == "no AUC: no pictures of normal"
    assert lone.decisions["sensitivity"] is not None


@pytest.mark.parametrize("first, second", [(0, 0), (3, 0), (5, 12), (40, 41), (700, 500)])
def test_p_value_of_decisions_is_scipys(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert find_p_value(first, second) == pytest.approx(expected)


def test_comparison_counts_who_was_right_on_which_picture() -> None:
    _, _, first = draw_two(1)
    random = np.random.default_rng(9)
    decided = np.where(random.random(len(first.labels)) < 0.2, 1 - first.decided, first.decided)
    second = AnswerTable(TWO, first.labels, decided, first.probabilities, None, None)
    group = compare_group("all", first, second)
    assert group.auc is not None
    assert (group.auc.drop, group.auc.p_value) == (0, 1)  # the scores are the same
    for index, name in enumerate(TWO.classes):
        rows = first.labels == index
        matrix = confusion_matrix((first.decided == index)[rows], (decided == index)[rows])
        agreement = group.decisions[name]
        assert agreement is not None
        assert [[agreement.neither, agreement.only_second], [agreement.only_first, agreement.both]] == matrix.tolist()


def write_table(path: Path, rows: Sequence[tuple[str, str]], header: tuple[str, str] = ("file", "site")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


PICTURES = [LabelledPicture(Path(f"data/{label}/{name}.png"), label) for label in (0, 1) for name in ("x", "y")]


def test_rows_of_the_table_are_found_by_folder_and_name_or_else_by_name(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", [("test/0/x.png", "A"), ("test/1/x.png", "B"), ("y.png", " ")])
    (grouping,) = read_groupings(table, ["site"], PICTURES[:3])
    assert (grouping.column, grouping.values) == ("site", ["A", EMPTY, "B"])


def test_a_picture_does_not_get_the_row_of_another_one_with_its_name(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", [("1/x.png", "A"), ("y.png", "B")])
    (grouping,) = read_groupings(table, ["site"], PICTURES)
    assert grouping.values == [ABSENT, ABSENT, "A", ABSENT]


def test_a_row_of_another_class_folder_is_no_row_of_a_picture_with_its_name(tmp_path: Path) -> None:
    pictures = [LabelledPicture(Path(f"data/{label}/{name}.png"), label) for label, name in ((0, "x"), (1, "own"))]
    table = write_table(tmp_path / "t.csv", [("0/own.png", "A"), (" 0/x.png ", "B")])
    (grouping,) = read_groupings(table, ["site"], pictures)
    assert grouping.values == ["B", ABSENT]


def test_values_that_differ_by_a_nul_are_two_groups() -> None:
    *_, table = draw_two(0, 8)
    values = ["A", "A\0"] * 4
    assert [sum(group.pictures.values()) for group in measure_groups(table, values)] == [4, 4]


def test_picture_that_is_not_in_the_table_is_a_subgroup_of_its_own(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", [(r"test\0\x.png", "A")])
    (grouping,) = read_groupings(table, ["site"], PICTURES[:2])
    assert grouping.values == ["A", ABSENT]


@pytest.mark.parametrize(
    "rows, header, message",
    [
        ([("x.png", "A")], ("name", "site"), "t.csv has no column file"),
        ([("x.png", "A")], ("file", "place"), "t.csv has no column site"),
        ([("z.png", "A")], ("file", "site"), "t.csv names none of the pictures"),
        ([("a/x.png", "A"), ("b/x.png", "B")], ("file", "site"), "the table says different things of 0/x.png"),
    ],
)
def test_table_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, rows: Sequence[tuple[str, str]], header: tuple[str, str], message: str
) -> None:
    with pytest.raises(PicturesError, match=message):
        read_groupings(write_table(tmp_path / "t.csv", rows, header), ["site"], PICTURES[:2])


def test_column_of_identifiers_is_no_subgroup(tmp_path: Path) -> None:
    pictures = [LabelledPicture(Path(f"0/{number}.png"), 0) for number in range(MAX_GROUPS + 1)]
    table = write_table(tmp_path / "t.csv", [(each.path.name, f"patient {each.path.stem}") for each in pictures])
    with pytest.raises(PicturesError, match="the column site has 41 values; at most 40 can be subgroups"):
        read_groupings(table, ["site"], pictures)


def test_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"file,site\n\xff,A\n")
    with pytest.raises(PicturesError, match=r"t\.csv is no CSV file in UTF-8"):
        read_groupings(tmp_path / "t.csv", ["site"], PICTURES)
