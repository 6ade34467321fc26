"""`/outcomes/<request id>`, drift and a candidate: what is seen of a model once it answers."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from app import create_app
from app.api.request.services import EXTENSION, Services
from app.config.settings import Settings
from app.registry.model_changes import ModelChanges
from app.state.store_access import StoreAccess
from app.users import UsersFile
from tests.conftest import PASSWORD, basic, within
from tests.evaluation.tiny_model import SIDE_PX, open_client, run_command, write_pictures, write_tiny_model

PATH = "/predictions/tiny-brightness"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "models")
    return tmp_path


@pytest.fixture
def client(place: Path) -> FlaskClient:
    return open_client(place)


def draw(level: float) -> bytes:
    """A picture of one brightness, with noise."""
    pixels = np.random.default_rng(0).normal(level, 3, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def predict(client: FlaskClient, request_id: str, level: float = 90, path: str = PATH) -> dict[str, Any]:
    answer: dict[str, Any] = client.put(path, data=draw(level), headers={"X-Request-ID": request_id}).get_json()
    return answer


def find_services(client: FlaskClient) -> Services:
    services: Services = client.application.extensions[EXTENSION]
    return services


# Truths


def test_truth_stands_beside_the_answer(client: FlaskClient) -> None:
    prediction = predict(client, "request-1")
    answer = client.post("/outcomes/request-1", json={"truth": "bright"})
    assert answer.status_code == 200
    assert answer.get_json() == {
        "request_id": "request-1",
        "index": 0,
        "model": "tiny-brightness",
        "version": "1.0",
        "class": "dark",
        "score": pytest.approx(prediction["score"], abs=1e-6),
        "truth": "bright",
        "right": False,
        "notice": prediction["notice"],
    }


def test_truth_of_one_of_several_pictures(client: FlaskClient) -> None:
    files = {"image": [(io.BytesIO(draw(level)), "a.png") for level in (90, 110)] + [(io.BytesIO(b"none"), "b.png")]}
    client.post(PATH, data=files, headers={"X-Request-ID": "request-2"})
    answers = [client.post("/outcomes/request-2", json={"truth": "bright", "index": index}) for index in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 404]
    assert [answer.get_json()["right"] for answer in answers[:2]] == [False, True]


def test_truth_of_a_heat_map_and_of_a_tensor(client: FlaskClient) -> None:
    predict(client, "request-3", path="/explanations/tiny-brightness")
    pixels = np.full((1, SIDE_PX, SIDE_PX, 3), 90)
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.ravel().tolist()}
    headers = {"X-Request-ID": "request-4"}
    assert (
        client.post("/v2/models/tiny-brightness/infer", json={"inputs": [tensor]}, headers=headers).status_code == 200
    )
    for request_id in ("request-3", "request-4"):
        assert client.post(f"/outcomes/{request_id}", json={"truth": "dark"}).get_json()["right"] is True


@pytest.mark.parametrize(
    "body, status, words",
    [
        ({"truth": "grey"}, 400, 'tiny-brightness has no class "grey": truth must be one of dark, bright.'),
        ({"truth": 1}, 400, 'The body must be JSON: {"truth": "<a class of the model>"}'),
        ({}, 400, "The body must be JSON"),
        ([], 400, "The body must be JSON"),
        ({"truth": "dark", "class": "dark"}, 400, "class is not known."),
        ({"truth": "dark", "index": -1}, 400, "index=-1 is not allowed: it must be a whole number from 0"),
        ({"truth": "dark", "index": 1}, 404, "No answer to picture 1 of this request is kept."),
    ],
)
def test_what_is_no_truth_is_refused_with_what_is(client: FlaskClient, body: Any, status: int, words: str) -> None:
    predict(client, "request-5")
    answer = client.post("/outcomes/request-5", json=body)
    assert answer.status_code == status
    assert words in answer.get_json()["message"]
    assert client.post("/outcomes/request-5", json={"truth": "dark"}).status_code == 200


def test_an_unknown_request_answers_404(client: FlaskClient) -> None:
    answer = client.post("/outcomes/request-6", json={"truth": "dark"})
    assert (answer.status_code, answer.get_json()["type"]) == (404, "ResourceNotFoundException")


def test_requests_with_one_id_and_different_answers_are_told_apart_by_nobody(client: FlaskClient) -> None:
    for level, status in ((90, 200), (90, 200), (110, 409)):
        predict(client, "request-8", level)
        answer = client.post("/outcomes/request-8", json={"truth": "dark"})
        assert answer.status_code == status
    assert "Give each request its own id." in answer.get_json()["message"]


def test_two_pictures_with_equal_answers_under_one_id_are_two(client: FlaskClient) -> None:
    for level in (255, 200):  # the score of both is 1
        predict(client, "request-10", level)
    assert client.post("/outcomes/request-10", json={"truth": "bright"}).status_code == 409


def test_the_truth_of_another_network_of_that_name_is_not_taken(place: Path, client: FlaskClient) -> None:
    predict(client, "request-9")
    manifest = place / "models/tiny-brightness/1.0/model.toml"
    manifest.write_text(manifest.read_text().replace('["dark", "bright"]', '["bright", "dark"]'))
    later = open_client(place)
    answer = later.post("/outcomes/request-9", json={"truth": "dark"})
    assert answer.status_code == 409
    assert "another network now" in answer.get_json()["message"]


def test_a_page_of_another_site_sends_no_truth(client: FlaskClient) -> None:
    predict(client, "request-7")
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert client.post("/outcomes/request-7", json={"truth": "dark"}, headers=headers).status_code == 403


def test_truths_are_counted_once_each(place: Path, client: FlaskClient) -> None:
    for number, (level, truth) in enumerate([(90, "bright"), (90, "dark"), (110, "bright"), (110, "bright")]):
        predict(client, f"request-{number}", level)
        for said in ("dark", truth):
            assert client.post(f"/outcomes/request-{number}", json={"truth": said}).status_code == 200
    (place / "instance").symlink_to(place / "serving")
    told = run_command(place, "outcomes", "tiny-brightness/1.0").stdout.splitlines()
    assert told == [
        "tiny-brightness/1.0: 4 answers whose truth is known",
        "dark: 1 called dark, 0 called bright",
        "bright: 1 called dark, 2 called bright",
        "sensitivity 0.667 (0.208 to 0.939), n = 3",
        "specificity 1.000 (0.207 to 1.000), n = 1",
    ]


# Whose answer it is


@pytest.fixture
def asked(place: Path) -> FlaskClient:
    """A client of a server with users: ada, bob, and keeper, who may manage."""
    for name, role in (("ada", "predict"), ("bob", "predict"), ("keeper", "manage")):
        UsersFile(place / "instance").add(name, role, PASSWORD)
    return create_app(Settings(models=place / "models", instance=place / "instance")).test_client()


def ask(client: FlaskClient, name: str, level: float = 90, request_id: str = "patch-0001") -> None:
    headers = {**basic(name, PASSWORD), "X-Request-ID": request_id}
    assert client.put(PATH, data=draw(level), headers=headers).status_code == 200


def tell(client: FlaskClient, name: str, truth: str = "dark", request_id: str = "patch-0001") -> TestResponse:
    return client.post(f"/outcomes/{request_id}", json={"truth": truth}, headers=basic(name, PASSWORD))


def count(client: FlaskClient) -> list[tuple[str, str]]:
    """Class and truth of all outcomes that are kept."""
    services = find_services(client)
    network = services.registry.get("tiny-brightness").manifest.network_digest.hex()
    outcomes = services.store.open().read_outcomes("tiny-brightness", "1.0", network)
    return sorted((each.class_name, each.truth) for each in outcomes)


def test_answer_of_another_user_is_as_unknown_as_one_that_never_was(asked: FlaskClient) -> None:
    ask(asked, "ada")
    ask(asked, "ada", 110, "patch-0002")
    ask(asked, "ada", 90, "patch-0002")  # a conflict, which nobody else is to see either
    for truth in ("dark", "no such class"):
        refusals = [tell(asked, "bob", truth, f"patch-000{number}") for number in (1, 2, 3)]
        assert {(each.status_code, each.text) for each in refusals} == {(404, refusals[-1].text)}
    assert tell(asked, "ada", "bright").get_json()["class"] == "dark"
    assert count(asked) == [("dark", "bright")]


def test_picture_under_the_id_of_another_user_spoils_neither_answer_nor_truth(asked: FlaskClient) -> None:
    ask(asked, "ada", 90)
    ask(asked, "bob", 110)
    for name, truth in (("ada", "bright"), ("bob", "bright"), ("ada", "dark")):
        answer = tell(asked, name, truth)
        assert (answer.status_code, answer.get_json()["class"]) == (200, {"ada": "dark", "bob": "bright"}[name])
    assert count(asked) == [("bright", "bright"), ("dark", "dark")]


def test_who_may_manage_tells_the_truth_of_anybodys_answer_and_it_is_the_same_one(asked: FlaskClient) -> None:
    ask(asked, "ada")
    assert tell(asked, "ada", "bright").status_code == 200
    assert tell(asked, "keeper", "dark").get_json()["right"] is True
    assert count(asked) == [("dark", "dark")]
    ask(asked, "bob", 110)
    assert tell(asked, "keeper").status_code == 409  # whose is meant?
    ask(asked, "keeper", 110)
    assert tell(asked, "keeper", "dark").get_json()["class"] == "bright"


# Drift


def test_drift_without_a_reference_counts_all_the_same(client: FlaskClient) -> None:
    predict(client, "request-1")
    told = client.get("/models/tiny-brightness/drift").get_json()
    assert told["reference"] is None
    assert (told["score"]["n"], told["score"]["psi"], told["score"]["changed"]) == (1, None, None)
    assert told["distance"]["n"] == 0


def test_drift_is_seen_when_other_pictures_come_and_only_then(place: Path) -> None:
    data = write_pictures(place / "data", 60, 85, 115)
    done = run_command(place, "reference", "tiny-brightness/1.0", "--data", data)
    assert done.exit_code == 0, done.stderr
    alike, other = open_client(place), open_client(place)
    for index, path in enumerate(sorted(data.rglob("*.png"))):
        if index % 2:
            alike.put(PATH, data=path.read_bytes())
        other.put(PATH, data=draw(99 + index % 3))
    kinds = [
        each.get(f"/models/tiny-brightness/{path}").get_json()
        for each, path in ((alike, "drift"), (other, "1.0/drift"))
    ]
    assert [kind["reference"] for kind in kinds] == ["120 pictures of data"] * 2
    assert [(kind["score"]["n"], kind["score"]["changed"]) for kind in kinds] == [(60, False), (120, True)]
    assert kinds[1]["score"]["psi"] > 1 > kinds[1]["score"]["psi_by_chance"]


def test_a_new_calibration_takes_the_reference_away(place: Path) -> None:
    data = write_pictures(place / "data", 60, 98, 102, noise=30)
    run_command(place, "reference", "tiny-brightness/1.0", "--data", data)
    manifest = place / "models/tiny-brightness/1.0/model.toml"
    assert "[reference]" in manifest.read_text()
    assert run_command(place, "calibrate", "tiny-brightness/1.0", "--data", data).exit_code == 0
    assert "[reference]" not in manifest.read_text()


def test_the_reference_of_another_network_is_none(place: Path) -> None:
    data = write_pictures(place / "data", 60, 85, 115)
    run_command(place, "reference", "tiny-brightness/1.0", "--data", data)
    manifest = place / "models/tiny-brightness/1.0/model.toml"
    manifest.write_text(re.sub(r'(?m)^network = ".*"$', 'network = "0123456789abcdef"', manifest.read_text()))
    told = open_client(place).get("/models/tiny-brightness/drift").get_json()
    assert (told["reference"], told["score"]["changed"]) == (None, None)


def test_too_few_pictures_make_no_reference(place: Path) -> None:
    data = write_pictures(place / "data", 49, 85, 115)
    (data / "notes.txt").write_text("no picture")
    done = run_command(place, "reference", "tiny-brightness/1.0", "--data", data)
    assert done.exit_code == 1
    assert "98 readable pictures are too few: 100 are needed" in done.stderr
    assert "notes.txt" in done.stderr


def test_drift_needs_a_server_and_a_reference(place: Path) -> None:
    done = run_command(place, "drift", "tiny-brightness")
    assert (done.exit_code, "no server runs here" in done.stderr) == (1, True)


# A candidate


def shadow(client: FlaskClient, share: float) -> None:
    """Have 1.0 answer beside the default, and wait until the app follows."""
    services = find_services(client)
    changes = ModelChanges(services.settings, StoreAccess(services.settings))
    changes.set_shadow("tiny-brightness", "1.0", share)
    assert within(20, lambda: bool(services.registry.now.shadows) == bool(share))


def count_shadow(client: FlaskClient, comparison: str) -> float:
    labels = {"model": "tiny-brightness", "version": "1.1", "candidate": "1.0", "comparison": comparison}
    return find_services(client).metrics.registry.get_sample_value("scancer_shadow_total", labels) or 0


def test_a_candidate_answers_beside_the_default_unseen(place: Path) -> None:
    newer = write_tiny_model(place / "models", "1.1")
    text = (newer / "model.toml").read_text()
    (newer / "model.toml").write_text(text.replace("threshold = 0.5", "threshold = 0.9"))
    client = open_client(place)
    shadow(client, 1.0)
    levels = {90: "agrees", 105: "differs", 140: "agrees"}  # bright from 1.0's threshold on, and from 1.1's
    for level, comparison in levels.items():
        before = count_shadow(client, comparison)
        assert predict(client, "request-1", level)["version"] == "1.1"
        assert within(20, lambda: count_shadow(client, comparison) == before + 1)  # noqa: B023  # it is called at once
    assert client.put(f"{PATH}/1.0", data=draw(90)).get_json()["version"] == "1.0"
    shadow(client, 0)
    predict(client, "request-1")
    assert [count_shadow(client, each) for each in ("agrees", "differs", "dropped", "fails")] == [2, 1, 0, 0]


def test_a_candidate_becomes_the_default_and_is_one_no_longer(place: Path) -> None:
    write_tiny_model(place / "models", "1.1")
    settings = Settings(models=place / "models", instance=place / "instance")
    assert run_command(place, "shadow", "tiny-brightness/1.0", "--share", "0.5").exit_code == 0
    access = StoreAccess(settings)
    assert access.read().shadows["tiny-brightness"].share == 0.5
    assert run_command(place, "set-default", "tiny-brightness", "1.0").exit_code == 0
    assert access.read().shadows == {}
    done = run_command(place, "shadow", "tiny-brightness/1.0", "--share", "0.5")
    assert (done.exit_code, "is the default version" in done.stderr) == (1, True)
