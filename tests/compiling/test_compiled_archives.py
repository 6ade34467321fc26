"""Archives of TorchServe's default classifier: compiled, served in the HTTP workers, and alike in every answer."""

import base64
import io
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from app import create_app
from app.compiling.archive_compiler import compile_archive, tell_apart
from app.config.settings import Settings
from app.engines.pytorch.torchvision_operators import declare_operators
from app.errors import CompiledModelError
from app.handlers.handler_archive import read_archive
from app.repository.model_folder import ARCHIVE_FOLDER
from tests.conftest import MANAGER, MANAGER_PASSWORD, basic
from tests.handlers.archives import TINY_MODEL, make_archive, make_tiny, make_tiny_weights
from tests.handlers.fixtures import ServeArchives, has_ended

DECIDING_MODEL = """
import torch

class Deciding(torch.nn.Module):
    def forward(self, x):
        bright = x.mean(dim=(1, 2, 3))
        if bright.max() > 1.0:
            return torch.stack([bright, -bright, bright], 1)
        return torch.stack([-bright, bright, bright], 1)
"""
OWN_HANDLER = """
from ts.torch_handler.image_classifier import ImageClassifier


class Own(ImageClassifier):
    pass
"""
LABELS = {"0": ["n0", "benign"], "1": ["n1", "malignant"], "2": ["n2", "unclear"]}
MODES = ("RGB", "L", "RGBA", "P", "LA", "1", "CMYK", "I;16")


def make_picture(mode: str = "RGB", size: tuple[int, int] = (300, 260), kind: str = "PNG", **options: Any) -> bytes:
    random = np.random.default_rng(size)
    pixels = random.integers(0, 256, (-(-size[1] // 20), -(-size[0] // 20), 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        picture.putalpha(Image.radial_gradient("L").resize(size))
    else:
        picture = picture.convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF" if mode == "CMYK" else kind, **options)
    return buffer.getvalue()


@dataclass
class Served:
    """A server of archives in this process."""

    client: FlaskClient
    app: Flask

    def describe(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = self.client.get(f"/models/{name}", headers=basic()).json
        return document

    def ask(self, name: str, body: Any, **more: Any) -> Any:
        return self.client.post(f"/predictions/{name}", data=body, headers=basic(), **more)


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def serve(serve_archives: ServeArchives) -> Serve:
    """Serve a model repository of archives, and wait until each has settled."""

    def start(models: Path, **settings: Any) -> Served:
        app = serve_archives(models, **settings)
        return Served(app.test_client(), app)

    return start


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with labels."""
    folder = tmp_path_factory.mktemp("archives") / "models"
    make_tiny(folder, "tiny", **{"index_to_name.json": json.dumps(LABELS)})
    return folder


@pytest.fixture(scope="module")
def fast(models: Path, serve: Serve) -> Served:
    """It, one that decides by what it sees, and the same as TorchScript."""
    folder = models.parent / "fast"
    shutil.copytree(models, folder)
    weights, scripted = make_deciding()
    files: dict[str, str | bytes] = {"model.py": DECIDING_MODEL, "weights.pth": weights}
    make_archive(folder, "deciding", "image_classifier", files, model_file="model.py", serialized_file="weights.pth")
    make_archive(folder, "scripted", "image_classifier", {"scripted.pt": scripted}, serialized_file="scripted.pt")
    return serve(folder)


@pytest.fixture(scope="module")
def eager(models: Path, serve: Serve) -> Served:
    """The first one, answered by a handler of its own that does what the default one does."""
    folder = models.parent / "eager"
    shutil.copytree(models, folder)
    manifest = folder / "tiny/1.0/MAR-INF/MANIFEST.json"
    document = json.loads(manifest.read_text())
    document["model"]["handler"] = "own.py"
    manifest.write_text(json.dumps(document))
    (folder / "tiny/1.0/own.py").write_text(OWN_HANDLER)
    return serve(folder)


def make_deciding() -> tuple[bytes, bytes]:
    """The weights of the model that decides, which has none, and the model as TorchScript."""
    import torch

    class Deciding(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x.mean(dim=[1, 2, 3])
            if bright.max() > 1.0:
                return torch.stack([bright, -bright, bright], 1)
            return torch.stack([-bright, bright, bright], 1)

    weights, scripted = io.BytesIO(), io.BytesIO()
    torch.save({}, weights)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        torch.jit.save(torch.jit.script(Deciding()), scripted)
    return weights.getvalue(), scripted.getvalue()


def test_description_tells_which_road_an_archive_takes_and_why(fast: Served, eager: Served) -> None:
    tiny, slow, deciding = fast.describe("tiny"), eager.describe("tiny"), fast.describe("deciding")
    assert (tiny["state"], tiny["engine"], tiny["not_compiled"], tiny["pool"]) == ("READY", "openvino", None, None)
    assert tiny["compiled"]["max_probability_difference"] <= 1e-4
    assert tiny["compiled"]["images_compared"] == 16
    assert tiny["output"]["classes"] == ["benign", "malignant", "unclear"]
    assert (slow["state"], slow["engine"], slow["not_compiled"]) == (
        "READY",
        "handler",
        "its handler is not image_classifier",
    )
    assert (deciding["state"], deciding["engine"]) == ("READY", "handler")
    assert "data-dependent" in deciding["not_compiled"]
    assert fast.client.get("/models/tiny", headers={**basic(), "Accept": "text/html"}).status_code == 200


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(300, 260), (224, 224), (97, 401), (640, 480), (30, 20)], ids=str)
def test_answers_are_the_handlers(fast: Served, eager: Served, mode: str, size: tuple[int, int]) -> None:
    picture = make_picture(mode, size)
    ours, theirs = fast.ask("tiny", picture), eager.ask("tiny", picture)
    assert (ours.status_code, ours.content_type) == (200, None)
    answer, expected = json.loads(ours.data), json.loads(theirs.data)
    assert list(answer) == list(expected)
    assert set(answer) == {"benign", "malignant", "unclear"}
    assert answer == pytest.approx(expected, abs=1e-4)
    assert ours.data.splitlines()[0] == theirs.data.splitlines()[0]  # JSON on several lines, as TorchServe writes it
    assert [each.headers["X-Model-Version"] for each in (ours, theirs)] == ["1.0", "1.0"]
    assert [each.headers["X-Notice"] for each in (ours, theirs)] == ["Research use only. Not for diagnosis."] * 2


def test_pictures_that_exif_would_turn_are_answered_as_they_lie(fast: Served, eager: Served) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = make_picture(size=(400, 240), kind="JPEG", exif=exif)
    answers = [json.loads(each.ask("tiny", picture).data) for each in (fast, eager)]
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)


def test_what_a_program_decides_by_what_it_sees_is_answered_by_its_handler_and_by_torchscript_alike(
    fast: Served,
) -> None:
    assert fast.describe("scripted")["engine"] == "openvino"
    for colour in ("white", "black"):
        buffer = io.BytesIO()
        Image.new("RGB", (224, 224), colour).save(buffer, "PNG")
        answers = [json.loads(fast.ask(name, buffer.getvalue()).data) for name in ("deciding", "scripted")]
        assert answers[0] == pytest.approx(answers[1], abs=1e-4)


def test_text_is_base64_and_a_form_has_its_picture_in_data(fast: Served) -> None:
    picture = make_picture()
    expected = json.loads(fast.ask("tiny", picture).data)
    text = base64.encodebytes(picture)
    assert json.loads(fast.ask("tiny", text, content_type="text/plain").data) == expected
    form = {"note": (io.BytesIO(b"x"), "x.bin"), "data": (io.BytesIO(picture), "x.png")}
    assert json.loads(fast.ask("tiny", form).data) == expected
    assert json.loads(fast.ask("tiny", {"image": (io.BytesIO(picture), "x.png")}).data) == expected


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", None, 400),
        (b"[[1, 2]]", "application/json", 400),
        (b"no base64!", "text/plain", 400),
        (b"no picture", None, 415),
        (make_picture()[:-30], None, 422),
    ],
    ids=["nothing", "numbers", "text", "no picture", "truncated"],
)
def test_what_is_no_sound_picture_gets_the_error_of_our_own_models(
    fast: Served, body: bytes, content_type: str | None, status: int
) -> None:
    response = fast.ask("tiny", body, content_type=content_type)
    assert (response.status_code, response.json["code"]) == (status, status)


def test_other_protocols_ask_it_too_but_not_with_normalized_values(fast: Served) -> None:
    picture = base64.b64encode(make_picture()).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [picture]}
    response = fast.client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}, headers=basic())
    assert response.status_code == 200, response.data
    values = response.json["outputs"][0]["data"]
    assert sorted(values) == pytest.approx(sorted(json.loads(fast.ask("tiny", make_picture()).data).values()), abs=1e-6)
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 224, 224], "data": [0.0] * (3 * 224 * 224)}
    response = fast.client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}, headers=basic())
    assert (response.status_code, "whole pictures" in response.json["error"]) == (400, True)


def test_configuration_and_statistics_are_those_of_our_own_models(fast: Served) -> None:
    config = fast.client.get("/v2/models/tiny/config", headers=basic()).json
    assert (config["platform"], config["input"][0]["data_type"]) == ("openvino", "TYPE_STRING")
    assert config["output"][0] == {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [3]}

    def read() -> dict[str, Any]:
        document = fast.client.get("/v2/models/tiny/versions/1.0/stats", headers=basic()).json
        stats: dict[str, Any] = document["model_stats"][0]
        return stats

    before, _ = read(), fast.ask("tiny", make_picture())
    after = read()
    assert after["inference_count"] == before["inference_count"] + 1
    for name, stage in after["inference_stats"].items():
        assert stage["count"] == before["inference_stats"][name]["count"] + (name != "fail")


def test_kserve_v1_answers_as_the_handler_does(fast: Served, eager: Served) -> None:
    texts = [base64.b64encode(make_picture(size=size)).decode() for size in ((300, 260), (97, 401))]
    for instances in ([{"data": texts[0]}], [{"b64": texts[0]}, {"body": texts[1], "note": "x"}]):
        answers = [
            each.client.post("/v1/models/tiny:predict", json={"instances": instances}, headers=basic())
            for each in (fast, eager)
        ]
        ours, theirs = (each.json["predictions"] for each in answers)
        assert [list(each) for each in ours] == [list(each) for each in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
        for name in ("X-Model-Version", "X-Notice", "Content-Type"):
            assert answers[0].headers[name] == answers[1].headers[name]
    for wrong in ({"data": "%"}, {"data": [1, 2]}, {}):
        response = fast.client.post("/v1/models/tiny:predict", json={"instances": [wrong]}, headers=basic())
        assert (response.status_code, list(response.json)) == (400, ["error"])


def test_management_lists_the_http_workers_and_the_numbers_that_are_wanted(fast: Served) -> None:
    call = {"headers": basic(MANAGER, MANAGER_PASSWORD), "environ_overrides": {"SERVER_PORT": "8081"}}
    seen = []
    for wish in ("min_worker=3&max_worker=4", "min_worker=0", "min_worker=1"):
        assert fast.client.put(f"/models/tiny?{wish}&synchronous=true", **call).status_code == 200
        [described] = fast.client.get("/models/tiny", **call).json
        workers = [(each["pid"], each["status"]) for each in described["workers"]]
        seen.append((described["minWorkers"], described["maxWorkers"], workers))
        queue = fast.app.extensions["scancer"].settings.queue_size if workers else 100
        assert described["jobQueueStatus"]["remainingCapacity"] == queue
    here = [(os.getpid(), "READY")]
    assert seen == [(3, 4, here), (0, 0, []), (1, 1, here)]


def test_compiled_archive_is_found_again_and_made_anew_when_its_files_change(fast: Served, tmp_path: Path) -> None:
    folder = tmp_path / "tiny/1.0"
    shutil.copytree(fast.app.extensions["scancer"].settings.models / "tiny/1.0", folder)
    archive, never = read_archive(folder, "tiny", "1.0"), Settings(instance=tmp_path, compile_timeout_s=0)
    manifest, report = compile_archive(archive, never)
    assert manifest.output.labels == ("benign", "malignant", "unclear")
    assert report.framework.startswith("torch 2.")
    (folder / "index_to_name.json").write_text(json.dumps({"0": "other"}))
    with pytest.raises(CompiledModelError, match="took longer than 0 s"):
        compile_archive(archive, never)


def test_archive_that_cannot_be_compiled_is_tried_once_and_its_program_runs_confined(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = f"""
import os, resource
with open({str(seen)!r}, "a") as file:
    print(os.getpid(), resource.getrlimit(resource.RLIMIT_CORE)[0], sorted(os.listdir()), file=file)
raise KeyError("no network")
"""
    files: dict[str, str | bytes] = {"model.py": code, "weights.pth": b"x"}
    names = {"model_file": "model.py", "serialized_file": "weights.pth"}
    folder = make_archive(tmp_path / "models", "broken", "image_classifier", files, **names)
    archive, settings = read_archive(folder, "broken", "1.0"), Settings(instance=tmp_path)
    for _ in range(2):
        with pytest.raises(CompiledModelError, match=r"^KeyError: 'no network'$"):
            compile_archive(archive, settings)
    [line] = seen.read_text().splitlines()
    process, core, _ = line.split(" ", 2)
    assert (int(process) != os.getpid(), core) == (True, "0")
    assert sorted(path.name for path in folder.iterdir()) == [ARCHIVE_FOLDER, "MAR-INF", "model.py", "weights.pth"]


def test_archive_whose_compilation_was_killed_is_tried_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    code = f"import os\nopen({str(seen)!r}, 'a').write('x')\nos.kill(os.getpid(), 9)\n"
    files: dict[str, str | bytes] = {"model.py": code, "weights.pth": b"x"}
    names = {"model_file": "model.py", "serialized_file": "weights.pth"}
    folder = make_archive(tmp_path / "models", "killed", "image_classifier", files, **names)
    archive, settings = read_archive(folder, "killed", "1.0"), Settings(instance=tmp_path)
    times, began = [], time.time()
    for now in (began, began + 50, began + 70):
        monkeypatch.setattr("app.compiling.archive_compiler.time", SimpleNamespace(time=lambda now=now: now))
        with pytest.raises(CompiledModelError, match=r"^it was killed \(SIGKILL\): most likely out of memory"):
            compile_archive(archive, settings)
        times.append(len(seen.read_text()))
    assert times == [1, 1, 2]


def test_labels_that_are_alike_make_classes_that_are_not() -> None:
    assert tell_apart(["crane", "cat", "crane", "crane (2)"]) == ("crane", "cat", "crane (2)", "crane (2) (3)")


def test_no_program_runs_while_programs_are_off(tmp_path: Path, own_instance: Path) -> None:
    files: dict[str, str | bytes] = {"model.py": f"open({str(tmp_path / 'ran')!r}, 'w')", "weights.pth": b"x"}
    names = {"model_file": "model.py", "serialized_file": "weights.pth"}
    make_archive(tmp_path / "models", "off", "image_classifier", files, **names)
    app = create_app(Settings(models=tmp_path / "models", instance=own_instance))
    description = app.test_client().get("/models/off", headers=basic()).json
    assert (description["state"], "SCANCER_PROGRAMS=all" in description["reason"]) == ("UNAVAILABLE", True)
    assert not (tmp_path / "ran").exists()


def explain_directly(picture: bytes, target: int) -> Any:
    """What captum makes of the same network and tensor, without a server."""
    import torch
    from captum.attr import IntegratedGradients

    declare_operators()
    from torchvision import transforms

    names: dict[str, Any] = {}
    exec(TINY_MODEL.format(classes=3), names)
    network = names["Tiny"]().eval()
    network.load_state_dict(torch.load(io.BytesIO(make_tiny_weights(3)), weights_only=True))
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    steps.append(transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    tensor = transforms.Compose(steps)(Image.open(io.BytesIO(picture)).convert("RGB"))
    return IntegratedGradients(network).attribute(tensor[None], target=target, n_steps=15)[0].numpy()


def list_programs(served: Served) -> set[int]:
    """The processes of all pools of a server."""
    manager = served.app.extensions["scancer"].follower.registry.archives.pools.link.manager.pid
    return set(map(int, Path(f"/proc/{manager}/task/{manager}/children").read_text().split()))


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_without_captum_an_explanation_answers_so_and_nothing_is_started(
    fast: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list_programs(fast)
    monkeypatch.setitem(sys.modules, "captum", None)
    text = "captum, which explains predictions, is not installed on the server."
    response = fast.client.post("/explanations/tiny", data=make_picture(), headers=basic())
    assert response.status_code == 503
    assert response.json == {"code": 503, "type": "InternalServerException", "message": text}
    response = fast.client.post("/v1/models/tiny:explain", json={"instances": [{"data": "eA=="}]}, headers=basic())
    assert (response.status_code, response.json) == (503, {"error": text})
    assert list_programs(fast) == before


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_explanation_is_captums_while_predictions_are_the_compiled_models(fast: Served) -> None:
    pytest.importorskip("captum")
    picture, target = make_picture(), 2
    program = fast.app.extensions["scancer"].settings.models / "tiny/1.0/model.py"
    program.rename(program.with_suffix(".away"))
    response = fast.client.post("/explanations/tiny", data=picture, headers=basic())
    assert (response.status_code, "Missing the model.py file" in response.json["message"]) == (503, True)
    program.with_suffix(".away").rename(program)

    before = list_programs(fast)
    form = {"data": (io.BytesIO(picture), "p.png"), "target": str(target)}
    response = fast.client.post("/explanations/tiny", data=form, headers=basic())
    assert (response.status_code, response.headers["X-Model-Version"]) == (200, "1.0")
    found, expected = np.array(json.loads(response.data)), explain_directly(picture, target)
    assert found.shape == expected.shape == (3, 224, 224)
    assert np.abs(found - explain_directly(picture, 0)).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    instances = [{"data": base64.b64encode(picture).decode(), "target": target}]
    response = fast.client.post("/v1/models/tiny:explain", json={"instances": instances}, headers=basic())
    [explanation] = response.json["explanations"]
    np.testing.assert_allclose(explanation, expected, rtol=1e-4, atol=1e-6)
    wrong = {"data": (io.BytesIO(picture), "p.png"), "target": "7"}
    assert fast.client.post("/explanations/tiny", data=wrong, headers=basic()).status_code == 503
    assert fast.describe("tiny")["engine"] == "openvino"

    [process] = list_programs(fast) - before  # nobody asks this model after this test
    port = {"SERVER_PORT": "8081"}
    gone = fast.client.delete("/models/tiny", headers=basic(MANAGER, MANAGER_PASSWORD), environ_overrides=port)
    assert gone.status_code == 200
    assert has_ended(process)
