"""Real pictures through the running server: the smoke set, and a golden AUC that a silent change would move."""

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from tests.conftest import PASSWORD, USER, LiveServer

GOLDEN_AUC = {"pcam": 0.9715, "isic": 0.9431}
"""On the 400 pictures below; from this very test, after the models' last training."""
GOLDEN_TOLERANCE = 0.001
DRAWS = 4
"""Random tenths of a picture, of which the mean counts."""
SETS = {"pcam": "pcam", "isic": "isic224"}
POSITIVE = {"pcam": "metastatic", "isic": "malignant"}


def predict(session: requests.Session, shipped_server: LiveServer, name: str, picture: bytes) -> dict[str, Any]:
    url = f"{shipped_server.inference}/predictions/{name}-classification?unfit=answer"
    answer = session.put(url, data=picture, auth=(USER, PASSWORD), timeout=60)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def test_smoke_pictures_get_an_answer(shipped_server: LiveServer, real_data: Path) -> None:
    rows = list(csv.DictReader((real_data / "smoke/manifest.csv").read_text().splitlines()))
    assert len(rows) == 7
    with requests.Session() as session:
        for row in rows:
            picture = (real_data / "smoke" / row["file"]).read_bytes()
            answer = predict(session, shipped_server, row["task"], picture)
            assert answer["class"] in answer["probabilities"]
            assert answer["notice"] == "Research use only. Not for diagnosis."


def test_smoke_patches_get_the_right_class(shipped_server: LiveServer, real_data: Path) -> None:
    with requests.Session() as session:
        for label, expected in (("0", "normal"), ("1", "metastatic")):
            answer = predict(session, shipped_server, "pcam", (real_data / f"smoke/pcam-{label}.png").read_bytes())
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
def test_auc_on_400_test_pictures_is_the_golden_one(shipped_server: LiveServer, real_data: Path, name: str) -> None:
    data_set = SETS[name]
    rows = list(csv.DictReader((real_data / f"{data_set}_manifest.csv").read_text().splitlines()))
    chosen = choose_400(name, rows)
    assert len({row["file"] for row in chosen}) == 400
    with tarfile.open(real_data / f"{data_set}.tar") as archive, requests.Session() as session:
        scores = []
        for row in chosen:
            member = archive.extractfile(row["file"]) or io.BytesIO()
            scores.append(predict(session, shipped_server, name, member.read())["probabilities"][POSITIVE[name]])
    auc = auc_of([int(row["label"]) for row in chosen], scores)
    assert auc == pytest.approx(GOLDEN_AUC[name], abs=GOLDEN_TOLERANCE)


def cover(picture: bytes, cells: list[tuple[int, int]]) -> bytes:
    """Paint cells of a heat map, 8 pixels wide, in the picture's mean colour."""
    pixels = np.array(Image.open(io.BytesIO(picture)).convert("RGB"))
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    for row, column in cells:
        pixels[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_hottest_tenth_of_a_map_moves_the_score_more_than_a_random_tenth(
    shipped_server: LiveServer, real_data: Path
) -> None:
    rows = choose_400("pcam", list(csv.DictReader((real_data / "pcam_manifest.csv").read_text().splitlines())))[::10]
    random, hot, other = np.random.default_rng(0), [], []
    with tarfile.open(real_data / "pcam.tar") as archive, requests.Session() as session:
        for row in rows:
            picture = (archive.extractfile(row["file"]) or io.BytesIO()).read()
            url = f"{shipped_server.inference}/explanations/pcam-classification?unfit=answer"
            answer = session.put(url, data=picture, auth=(USER, PASSWORD), timeout=60).json()
            values = np.abs(answer["heat_map"]["values"])
            cells = [divmod(int(index), 12) for index in np.argsort(-values, axis=None)]
            drawn = [[cells[index] for index in random.permutation(len(cells))] for _ in range(DRAWS)]
            moves = []
            for chosen in (cells, *drawn):
                covered = predict(session, shipped_server, "pcam", cover(picture, chosen[: len(cells) // 10]))
                moves.append(abs(covered["score"] - answer["score"]))
            hot.append(moves[0])
            other.append(np.mean(moves[1:]))
    assert len(rows) == 40
    assert np.mean(hot) > 1.5 * np.mean(other)
    assert np.mean(np.array(hot) > np.array(other)) > 0.7
