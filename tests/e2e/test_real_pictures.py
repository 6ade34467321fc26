"""Real pictures through the running server: the smoke set, and a golden AUC that a silent change would move."""

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.conftest import PASSWORD, USER, LiveServer

GOLDEN_AUC = {"pcam": 0.9583, "isic": 0.9361}
"""On the 400 pictures below; from this very test, after the models' last training."""
GOLDEN_TOLERANCE = 0.001
POSITIVE = {"pcam": "metastatic", "isic": "malignant"}


def predict(session: requests.Session, server: LiveServer, name: str, picture: bytes) -> dict[str, Any]:
    url = f"{server.inference}/predictions/{name}-classification"
    answer = session.put(url, data=picture, auth=(USER, PASSWORD), timeout=60)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_smoke_pictures_get_an_answer(server: LiveServer, real_data: Path) -> None:
    rows = list(csv.DictReader((real_data / "smoke/manifest.csv").read_text().splitlines()))
    assert len(rows) == 7
    with requests.Session() as session:
        for row in rows:
            picture = (real_data / "smoke" / row["file"]).read_bytes()
            answer = predict(session, server, row["task"], picture)
            assert answer["class"] in answer["probabilities"]
            assert answer["notice"] == "Research use only. Not for diagnosis."


def test_smoke_patches_get_the_right_class(server: LiveServer, real_data: Path) -> None:
    with requests.Session() as session:
        for label, expected in (("0", "normal"), ("1", "metastatic")):
            answer = predict(session, server, "pcam", (real_data / f"smoke/pcam-{label}.png").read_bytes())
            assert answer["class"] == expected


def choose_400(name: str, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """As many of the rarer class as there are, up to 200, and the rest of the other, evenly over the sorted files."""
    belongs = {"pcam": lambda row: "_patch" in row["file"], "isic": lambda row: row["origin"] == "HAM10000"}[name]
    main = [row for row in rows if row["split"] == "test" and belongs(row)]
    groups = [sorted((row for row in main if row["label"] == label), key=lambda row: row["file"]) for label in "01"]
    positives = min(200, len(groups[1]))
    chosen = []
    for group, count in zip(groups, (400 - positives, positives), strict=True):
        chosen += [group[index] for index in np.linspace(0, len(group) - 1, count).round().astype(int)]
    return chosen


def auc_of(labels: list[int], scores: list[float]) -> float:
    """By counting pairs: the definition, on purpose not the code that made the model card."""
    positive = np.array([score for score, label in zip(scores, labels, strict=True) if label == 1])
    negative = np.array([score for score, label in zip(scores, labels, strict=True) if label == 0])
    above = (positive[:, None] > negative[None, :]).mean()
    equal = (positive[:, None] == negative[None, :]).mean()
    return float(above + equal / 2)


@pytest.mark.parametrize("name", ["pcam", "isic"])
def test_auc_on_400_test_pictures_is_the_golden_one(server: LiveServer, real_data: Path, name: str) -> None:
    rows = list(csv.DictReader((real_data / f"{name}_manifest.csv").read_text().splitlines()))
    chosen = choose_400(name, rows)
    assert len({row["file"] for row in chosen}) == 400
    with tarfile.open(real_data / f"{name}.tar") as archive, requests.Session() as session:
        scores = []
        for row in chosen:
            member = archive.extractfile(row["file"]) or io.BytesIO()
            scores.append(predict(session, server, name, member.read())["probabilities"][POSITIVE[name]])
    auc = auc_of([int(row["label"]) for row in chosen], scores)
    assert auc == pytest.approx(GOLDEN_AUC[name], abs=GOLDEN_TOLERANCE)
