"""Fit: a version that knows its kind of pictures refuses others, and says why."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from flask.testing import FlaskClient
from PIL import Image, ImageFilter

from app.config.settings import Settings
from app.engines.compiled.compile_report import hash_ir
from app.engines.compiled.feature_distance import add_distance, find_layers, read_groups
from app.engines.compiled.feature_extractor import FeatureExtractor, choose_layers
from app.engines.pytorch.torchvision_operators import declare_operators
from app.errors import CompiledModelError, IntegrityError, ManifestError, ModelFormatError
from app.evaluation.fit_fitting import learn_reference, measure_distance, measure_distances
from app.exchange.admission import check_files
from app.manifest.fit_spec import LOOKS
from app.manifest.model_manifest import read_manifest
from app.pipeline.fit import measure_looks
from app.processes.plain_files import hash_files
from app.repository.model_check import check_folder
from app.repository.model_folder import ModelFolder
from tests.evaluation.tiny_model import (
    SIDE_PX,
    make_network,
    open_client,
    run_command,
    write_pictures,
    write_tiny_model,
)

NAME, VERSION = "tiny-brightness", "tiny-brightness/1.0"
PATH = f"/predictions/{NAME}"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fitted model, the pictures that it was fitted on, and others of their kind."""
    place = tmp_path_factory.mktemp("fitted")
    write_tiny_model(place / "models")
    write_pictures(place / "train", 600, 80, 120, noise=30)
    done = run_command(place, "fit", VERSION, "--data", place / "train")
    assert done.exit_code == 0, done.output
    share = re.search(r"of 300 right pictures as they are: (\d+\.\d)% refused", done.stdout)
    assert share is not None, done.stdout
    assert float(share[1]) <= 3
    return place


@pytest.fixture(scope="module")
def client(fitted: Path) -> FlaskClient:
    return open_client(fitted)


def encode(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def draw(seed: int, level: float = 100, noise: float = 30, shape: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> bytes:
    pixels = np.random.default_rng(seed).normal(level, noise, (*shape, 3))
    return encode(pixels.clip(0, 255))


RIGHT = draw(5)
TINT = np.array([20, 0, -20])
STRIPES = encode(np.repeat(np.where(np.arange(SIDE_PX) % 4 < 2, 60, 140)[:, None], SIDE_PX, 1)[..., None] + [5, 0, 15])
OTHERS = {
    "too dark": draw(1, 9, 3),
    "too bright": draw(1, 253, 2),
    "almost of one colour": encode(np.full((SIDE_PX, SIDE_PX, 3), (100, 110, 120))),
    "grey, where colour is expected": encode(np.random.default_rng(1).normal(100, 30, (SIDE_PX, SIDE_PX)).clip(0, 255)),
    "too small": draw(1, shape=(3, 3)),
    "squeezed": draw(1, shape=(8, 40)),
}


def test_pictures_of_the_kind_are_answered_and_how_near_they_are_is_said(client: FlaskClient) -> None:
    fits = [client.put(PATH, data=draw(seed)).get_json()["fit"] for seed in range(20)]
    assert all(fit["fits"] and fit["reasons"] == [] and fit["limit"] == 1 for fit in fits)
    assert all(0 < fit["distance"] <= 1 for fit in fits)


@pytest.mark.parametrize("reason", OTHERS)
def test_another_kind_is_refused_with_its_reason_and_answered_only_on_demand(client: FlaskClient, reason: str) -> None:
    refused = client.put(PATH, data=OTHERS[reason])
    error = refused.get_json()
    assert (refused.status_code, error["code"], error["type"]) == (422, 422, "UnfitImageException")
    assert any(each.startswith(reason) for each in error["fit"]["reasons"]), error
    assert reason in error["message"]
    assert "?unfit=answer" in error["message"]
    answered = client.put(f"{PATH}?unfit=answer", data=OTHERS[reason])
    assert answered.status_code == 200
    assert answered.get_json()["fit"] == error["fit"]
    assert answered.get_json()["class"] in ("dark", "bright")
    assert client.put(PATH, data=RIGHT).status_code == 200


def test_what_the_eye_lets_pass_the_network_does_not(client: FlaskClient) -> None:
    error = client.put(PATH, data=STRIPES).get_json()
    assert error["type"] == "UnfitImageException"
    assert error["fit"]["distance"] > 1
    assert any("unlike the pictures that it was trained on" in reason for reason in error["fit"]["reasons"])


def test_of_several_pictures_the_misfit_alone_has_an_error(client: FlaskClient) -> None:
    form = {"data": [(io.BytesIO(picture), f"{index}.png") for index, picture in enumerate((RIGHT, STRIPES, RIGHT))]}
    first, second, third = client.post(PATH, data=form).get_json()["predictions"]
    assert (first["fit"]["fits"], second["type"], third["fit"]["fits"]) == (True, "UnfitImageException", True)
    assert second["fit"]["fits"] is False
    form = {"data": [(io.BytesIO(picture), "a.png") for picture in (RIGHT, STRIPES)]}
    answers = client.post(f"{PATH}?unfit=answer", data=form).get_json()["predictions"]
    assert [answer["fit"]["fits"] for answer in answers] == [True, False]


def test_answers_that_are_no_json_say_in_a_header_whether_the_picture_fits(client: FlaskClient) -> None:
    text, png = {"Accept": "text/plain"}, {"Accept": "image/png"}
    for picture, word in ((RIGHT, "true"), (STRIPES, "false")):
        path = f"{NAME}?unfit=answer"
        assert client.put(f"/predictions/{path}", data=picture, headers=text).headers["X-Fits"] == word
        assert client.put(f"/explanations/{path}", data=picture, headers=png).headers["X-Fits"] == word
    form = {"data": [(io.BytesIO(picture), "a.png") for picture in (RIGHT, STRIPES)]}
    assert client.post(PATH, data=form, headers=text).headers["X-Fits"] == "true, false"


def test_kserves_protocols_and_explanations_refuse_it_too(client: FlaskClient) -> None:
    text = base64.b64encode(STRIPES).decode()
    instances = {"instances": [{"b64": text}]}
    tensor = {"name": "pixels", "datatype": "BYTES", "shape": [1], "data": [text]}
    bodies = {f"/v1/models/{NAME}:predict": instances, f"/v2/models/{NAME}/infer": {"inputs": [tensor]}}
    for path, document in bodies.items():
        refused = client.post(path, json=document)
        assert refused.status_code == 422, refused.text
        assert "unlike the pictures" in refused.text
        answered = client.post(f"{path}?unfit=answer", json=document)
        assert answered.status_code == 200, answered.text
        assert "unlike the pictures" in answered.text
    assert client.put(f"/explanations/{NAME}", data=STRIPES).get_json()["type"] == "UnfitImageException"
    assert client.put(f"/explanations/{NAME}?unfit=answer", data=STRIPES).get_json()["fit"]["fits"] is False
    assert client.put(f"/explanations/{NAME}", data=RIGHT).get_json()["fit"]["fits"] is True


def test_another_wish_than_refuse_and_answer_is_an_error(client: FlaskClient) -> None:
    refused = client.put(f"{PATH}?unfit=maybe", data=RIGHT)
    assert refused.status_code == 400
    assert refused.get_json()["message"] == "unfit=maybe is not allowed: it must be answer or refuse"
    assert client.put(f"{PATH}?unfit=refuse", data=STRIPES).status_code == 422


def test_prometheus_sees_scores_and_distances_of_refused_pictures_too(client: FlaskClient) -> None:
    def read(name: str) -> float:
        found = re.search(rf'^{name}{{model="{NAME}",version="1.0"}} (\S+)$', client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = {name: read(name) for name in ("scancer_score_count", "scancer_fit_distance_count")}
    score = client.put(PATH, data=RIGHT).get_json()["score"]
    total = read("scancer_score_sum")
    client.put(PATH, data=STRIPES)
    form = {"data": [(io.BytesIO(picture), "a.png") for picture in (RIGHT, STRIPES)]}
    client.post(PATH, data=form)
    assert read("scancer_score_count") - before["scancer_score_count"] == 2
    assert read("scancer_fit_distance_count") - before["scancer_fit_distance_count"] == 4
    assert read("scancer_score_sum") - total == pytest.approx(score, abs=1e-5)


def test_model_without_a_fit_answers_and_says_that_nothing_was_checked(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "models")
    client = open_client(tmp_path)
    for picture in (RIGHT, STRIPES):
        fit = client.put(PATH, data=picture).get_json()["fit"]
        assert fit["fits"] is None
        assert "nothing was checked" in fit["reasons"][0]
    assert client.get(f"/models/{NAME}").get_json()["fit"] is None


def test_description_says_which_pictures_it_knows(client: FlaskClient) -> None:
    described = client.get(f"/models/{NAME}").get_json()["fit"]
    assert described["data"] == "900 pictures of train; limit on 300 of train"
    assert (described["least_side_px"], described["longest_shape"]) == (4, 1.2)


def test_evaluation_counts_every_picture_and_check_holds(fitted: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "other", 20, 20, 230, noise=1)
    done = run_command(fitted, "evaluate", VERSION, "--data", tmp_path / "other")
    assert done.exit_code == 0, done.output
    assert "20 dark, 20 bright" in done.stdout


def test_fitting_again_gives_the_same(fitted: Path) -> None:
    before = (fitted / "models" / VERSION / "model.toml").read_text()
    assert run_command(fitted, "fit", VERSION, "--data", fitted / "train").exit_code == 0
    assert (fitted / "models" / VERSION / "model.toml").read_text() == before


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "another file": lambda content: content[:-1],
    "too short": lambda content: content[:-4],
    "empty": lambda content: content[:0],
    "NaN": lambda content: np.full(len(content) // 4, np.nan, np.float32).tobytes(),
    "too large": lambda content: np.full(len(content) // 4, 3e38, np.float32).tobytes(),
}


@pytest.mark.parametrize("change", [*SPOILED, "gone", "other layers", "layers that are not there", "other weights"])
def test_model_whose_fit_is_broken_is_not_served_and_says_why(fitted: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(fitted / "models", tmp_path / "models")
    folder = tmp_path / "models" / VERSION
    spec = read_manifest(folder).fit
    assert spec is not None
    file, text = folder / spec.file, (folder / "model.toml").read_text()
    if change == "gone":
        file.unlink()
    elif change in SPOILED:
        file.write_bytes(SPOILED[change](file.read_bytes()))
        text = text.replace(spec.sha256, hash_files(file)) if change != "another file" else text
    elif change == "other weights":
        text = text.replace(spec.network_sha256, "0" * 64)
    else:
        text = re.sub("(?m)^layers = .*$", "layers = [[40]]" if "not there" in change else "layers = [[0, 1]]", text)
    (folder / "model.toml").write_text(text)
    client = open_client(tmp_path)
    assert client.put(PATH, data=RIGHT).status_code == 503
    reason = client.get(f"/models/{NAME}").get_json()["reason"]
    assert "fit" in reason or "distance" in reason
    assert str(tmp_path) not in reason
    write_tiny_model(tmp_path / "models", "2.0")
    done = run_command(tmp_path, "check")
    assert done.exit_code == 1
    assert f"{NAME}/2.0" in done.output


def test_pictures_of_another_kind_that_are_shown_are_refused_and_the_right_ones_are_not(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "models")
    data = write_pictures(tmp_path / "train", 600, 80, 120, noise=30)
    other = tmp_path / "other/deeper"
    other.mkdir(parents=True)
    random = np.random.default_rng(2)
    for index in range(400):
        pixels = random.normal(100, 30, (SIDE_PX, SIDE_PX, 3)) + TINT
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(other / f"{index}.png")

    def fit(*options: object) -> str:
        done = run_command(tmp_path, "fit", VERSION, "--data", data, *options)
        assert done.exit_code == 0, done.output
        return done.stdout

    def count_refused() -> int:
        client = open_client(tmp_path)
        return sum(
            client.put(PATH, data=path.read_bytes()).status_code == 422 for path in sorted(other.iterdir())[:100]
        )

    fit()
    before = count_refused()
    said = fit("--other", other.parent)
    shares = dict(re.findall(r"of \d+ (.*): (\d+\.\d)% refused", said))
    assert before < 50, "the kinds are too far apart to show anything"
    assert count_refused() >= 95
    assert float(shares["pictures of another kind"]) >= 95
    assert "of 100 pictures of another kind" in said
    assert float(shares["right pictures as they are"]) <= 3
    manifest = read_manifest(tmp_path / "models" / VERSION)
    assert manifest.fit is not None
    assert manifest.fit.data.endswith("; told apart from 300 of other")


def test_few_pictures_of_another_kind_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "models")
    before = (folder / "model.toml").read_bytes()
    data = write_pictures(tmp_path / "train", 600, 80, 120, noise=30)
    few = write_pictures(tmp_path / "few", 99, 80, 120)
    done = run_command(tmp_path, "fit", VERSION, "--data", data, "--other", few)
    assert done.exit_code != 0
    assert "198 pictures of another kind are too few: 200 are needed" in done.output
    assert (folder / "model.toml").read_bytes() == before
    assert not list(folder.glob("fit*"))


def test_file_of_a_fit_belongs_to_the_version_and_another_does_not(fitted: Path) -> None:
    folder = ModelFolder(fitted / "models" / VERSION)
    check_files(folder, folder.read_manifest())
    stranger = folder.path / "fit-of-another.bin"
    stranger.write_bytes(b"1234")
    try:
        with pytest.raises(ModelFormatError, match=r"fit-of-another\.bin is no part of a model folder"):
            check_files(folder, folder.read_manifest())
    finally:
        stranger.unlink()


def test_few_pictures_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "models")
    before = (folder / "model.toml").read_bytes()
    done = run_command(tmp_path, "fit", VERSION, "--data", write_pictures(tmp_path / "few", 50, 80, 120))
    assert done.exit_code != 0
    assert "75 pictures to learn from and 25 to set the limit on are too few: 200 of each are needed" in done.output
    assert (folder / "model.toml").read_bytes() == before
    assert not list(folder.glob("fit*"))


def test_example_that_is_damaged_is_named_by_the_check(fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted / "models", tmp_path / "models")
    examples = tmp_path / "models" / VERSION / "examples"
    examples.mkdir()
    (examples / "picture.png").write_bytes(draw(1)[:-200])
    settings = Settings(models=tmp_path / "models", instance=tmp_path / "instance")
    with pytest.raises(IntegrityError, match=r"examples/picture\.png: "):
        check_folder(ModelFolder(tmp_path / "models" / VERSION), settings)


@pytest.mark.parametrize(("level", "is_right"), [(100, True), (250, False)])
def test_example_that_the_service_would_refuse_is_no_example(
    fitted: Path, tmp_path: Path, level: float, is_right: bool
) -> None:
    shutil.copytree(fitted / "models", tmp_path / "models")
    examples = tmp_path / "models" / VERSION / "examples"
    examples.mkdir()
    (examples / "picture.png").write_bytes(draw(1, level))
    expected = {"tolerance": 1, "probabilities": {"picture.png": dict.fromkeys(("dark", "bright"), 0.5)}}
    (examples / "expected.json").write_text(json.dumps(expected))
    settings = Settings(models=tmp_path / "models", instance=tmp_path / "instance")
    told = r"examples/picture\.png is not of the kind that the model was made for: "
    with nullcontext() if is_right else pytest.raises(IntegrityError, match=told):
        check_folder(ModelFolder(tmp_path / "models" / VERSION), settings)


MORE = "least_side_px", "longest_shape", "file", "sha256", "layers", "network_sha256", "data"


@pytest.mark.parametrize("name", [*LOOKS, *MORE])
def test_manifest_with_a_broken_fit_is_refused_by_its_key(fitted: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / VERSION
    shutil.copytree(fitted / "models" / VERSION, folder)
    text = (folder / "model.toml").read_text()
    before, table = text.split("[fit]")
    (folder / "model.toml").write_text(before + "[fit]" + re.sub(rf"(?m)^{name} = .*$", f'{name} = ["b", 1]', table))
    with pytest.raises(ManifestError, match=name):
        read_manifest(folder)


def test_distance_is_mahalanobis_as_pytorch_ood_has_it() -> None:
    declare_operators()
    from pytorch_ood.detector import Mahalanobis

    random = np.random.default_rng(0)
    mixing = random.normal(0, 1, (6, 6))
    features = (random.normal(0, 1, (500, 6)) @ mixing + 3).astype(np.float32)
    asked = (random.normal(0, 2, (50, 6)) @ mixing).astype(np.float32)
    ours = measure_distance(asked, learn_reference(features, [0], shrinkage=0.0))
    oracle = Mahalanobis(None).fit_features(torch.from_numpy(features), torch.zeros(500, dtype=torch.int64))
    theirs = oracle.predict_features(torch.from_numpy(asked)).numpy()
    assert ours == pytest.approx(np.sqrt(2 * theirs * (len(features) - 1)), rel=1e-2)


def test_compiled_network_tells_the_distance_that_numpy_does(fitted: Path) -> None:
    folder = fitted / "models" / VERSION
    reference = read_groups(folder, read_manifest(folder), make_network())
    pictures = np.random.default_rng(0).integers(0, 256, (7, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    features = FeatureExtractor(folder, hash_ir(folder / "compiled")).extract(pictures)
    network = openvino.Core().compile_model(
        add_distance(make_network(), reference), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    scores = network(pictures)[0]
    assert scores[:, 2] == pytest.approx(measure_distances(features, reference), rel=1e-4)
    plain = openvino.Core().compile_model(make_network(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert scores[:, :2] == pytest.approx(plain(pictures)[0], abs=1e-4)


def test_layers_are_early_and_middle_ones_and_no_more_than_a_picture_can_pay() -> None:
    def choose(*features: int) -> list[list[int]]:
        return choose_layers(list(features))

    assert choose(48, 80, 160, 160, 224, 224, 384, 384, 384) == [[0, 1, 2], [3, 4, 5]]
    assert choose(100, 512, 1024, 1024, 1024, 4096) == [[0, 1], [2]]
    assert choose(64) == [[0]]
    with pytest.raises(CompiledModelError, match="no layers"):
        choose(*[4096] * 5)
    assert len(find_layers(make_network())) == 2


def test_looks_are_what_a_person_would_say() -> None:
    random = np.random.default_rng(0)
    texture = Image.fromarray(random.normal(128, 40, (96, 96, 3)).clip(0, 255).astype(np.uint8))
    looks = {
        "texture": measure_looks(np.asarray(texture)),
        "blurred": measure_looks(np.asarray(texture.filter(ImageFilter.GaussianBlur(3)))),
        "enlarged": measure_looks(np.asarray(texture.resize((16, 16)).resize((96, 96), Image.Resampling.BICUBIC))),
        "dark": measure_looks(np.asarray(texture) // 16),
        "grey": measure_looks(np.asarray(texture.convert("L").convert("RGB"))),
        "overexposed": measure_looks((np.asarray(texture) * 3.0).clip(0, 255).astype(np.uint8)),
        "blank": measure_looks(np.full((96, 96, 3), 77, np.uint8)),
    }
    assert looks["blurred"]["sharpness"] < looks["texture"]["sharpness"] / 3
    assert looks["enlarged"]["sharpness"] < looks["texture"]["sharpness"] / 3
    assert looks["dark"]["brightness"] == pytest.approx(7.5, abs=0.5)
    assert looks["grey"]["colour"] == 0
    assert looks["overexposed"]["glare"] > 0.8
    assert looks["blank"] == {"brightness": 77, "contrast": 0, "sharpness": 0, "colour": 0, "glare": 0}
    assert json.dumps(looks)
