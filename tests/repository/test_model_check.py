"""The expected scores of a model's examples come from outside, as its manifest does."""

import json
from pathlib import Path

import pytest

from app.errors import IntegrityError
from app.repository.model_check import read_expected
from app.repository.model_folder import ModelFolder

NAME = "synthetic-normal.png"


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"tolerance": float("inf")}, "tolerance=inf is not allowed"),
        ({"tolerance": 10**400}, "tolerance=<over 40 digits> is not allowed"),
        ({"tolerance": "x"}, "tolerance=x is not allowed"),
        ({"probabilities": {NAME: {"normal": float("nan")}}}, "normal=nan is not allowed"),
        ({"probabilities": {NAME: {"normal": 1.5}}}, "normal=1.5 is not allowed"),
        ({"probabilities": {NAME: [0.5]}}, "has no attribute"),
        ({"probabilities": {NAME: {"normal": 0.5}}}, "does not name the pictures"),
    ],
)
def test_expected_scores_that_would_let_every_model_pass_are_refused(
    pcam: Path, change: dict[str, object], reason: str
) -> None:
    path = pcam / "examples/expected.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match=reason):
        read_expected(ModelFolder(pcam))
