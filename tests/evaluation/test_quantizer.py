"""INT8: what is written, when it is refused, and when it serves. NNCF itself quantizes a tiny model."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.config.settings import Settings
from app.engines.compiled.compile_report import read_report
from app.engines.compiled.int8_report import Int8Report, read_int8_report
from app.errors import CompiledModelError, FrameworkMissingError, InferenceError, IntegrityError, PicturesError
from app.evaluation.labelled_folder import find_pictures, read_picture, split_pictures
from app.evaluation.quantizer import quantize_in_process
from app.manifest.model_manifest import read_manifest
from app.pipeline.decoding.limits import ImageLimits
from app.registry.model_entry import State
from app.repository.model_check import check_folder
from app.repository.model_folder import ModelFolder
from app.users import UsersFile
from tests.api.test_openapi import read_document, validate
from tests.conftest import PASSWORD, USER, basic
from tests.evaluation.tiny_model import write_pictures, write_tiny_model
from tests.registry.loading import load_models, work_until
from tests.test_cli import flask

pytestmark = pytest.mark.slow

CLASSES = ("dark", "bright")
SOUND = Int8Report(
    artifact_sha256="a",
    graph_sha256="b",
    classes=list(CLASSES),
    f32_ir_sha256="c",
    ir_sha256="d",
    quantizer="nncf",
    calibration_pictures=300,
    measured_pictures={"dark": 100, "bright": 100},
    auc_f32=0.95,
    auc_int8=0.949,
    auc_drop=0.001,
    auc_drop_low=0.0,
    auc_drop_high=0.002,
    max_probability_change=0.1,
    decisions_changed=1,
    ms_f32=2.0,
    ms_int8=1.0,
)


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A repository whose tiny model has an accepted INT8 version, and what the command printed; not to be changed."""
    root = tmp_path_factory.mktemp("accepted")
    write_tiny_model(root / "models")
    pictures = write_pictures(root / "pictures", 150, dark=80, bright=120, names=CLASSES)
    done = flask(
        *("models", "compile", "tiny-brightness", "--int8", str(pictures)),
        models=str(root / "models"),
        instance=str(root / "instance"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    return root / "models", done.stdout


@pytest.fixture
def models(accepted: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of that repository."""
    return shutil.copytree(accepted[0], tmp_path / "models")


@pytest.fixture
def tiny(models: Path) -> Path:
    """The folder of the copied version."""
    return models / "tiny-brightness/1.0"


def serve(models: Path, instance: Path, precision: str) -> dict[str, Any]:
    """What a server with this precision says of the tiny model, after it has answered a prediction."""
    UsersFile(instance).add(USER, "predict", PASSWORD)
    client = create_app(Settings(models=models, instance=instance, precision=precision)).test_client()
    picture = write_pictures(instance / "pictures", 1, 80, 120) / "1/000.png"
    answer = client.put("/predictions/tiny-brightness", data=picture.read_bytes(), headers=basic())
    assert answer.get_json()["class"] == "bright"
    description: dict[str, Any] = client.get("/models/tiny-brightness", headers=basic()).get_json()
    document = read_document()
    validate(document, document["components"]["schemas"]["ModelDescription"], description)
    compiled: dict[str, Any] = description["compiled"]
    return compiled


def read(folder: Path) -> Int8Report:
    manifest = read_manifest(folder)
    return read_int8_report(folder, manifest, read_report(folder, manifest))


def test_command_writes_an_int8_model_and_a_report_beside_the_compiled_one(accepted: tuple[Path, str]) -> None:
    folder = accepted[0] / "tiny-brightness/1.0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "compiled",
        "compiled_int8",
        "model.safetensors",
        "model.toml",
    ]
    assert '"FakeQuantize"' in (folder / "compiled_int8/model.xml").read_text()
    assert '"FakeQuantize"' not in (folder / "compiled/model.xml").read_text()
    written = json.loads((folder / "compiled_int8/report.json").read_text())
    assert (written["accepted"], written["reason"]) == (True, "")
    report = read(folder)
    assert (report.calibration_pictures, report.measured_pictures) == (100, {"dark": 100, "bright": 100})
    assert report.auc_f32 == report.auc_int8 == 1
    assert 0 < report.max_probability_change < 0.2
    assert report.ms_f32 > 0 < report.ms_int8
    assert report.quantizer == "nncf 3.4.0"


def test_command_prints_the_figures(accepted: tuple[Path, str]) -> None:
    lines = accepted[1].splitlines()
    assert lines[0] == "quantizing tiny-brightness/1.0 …"
    assert "100 pictures calibrated; measured on 100 dark, 100 bright" in lines
    assert "AUC 1.0000 in float32, 1.0000 in INT8; a drop of 0.0000 (0.0000 to 0.0000)" in lines
    assert lines[-1] == "ok tiny-brightness/1.0: SCANCER_PRECISION=int8 serves it"


def test_model_that_loses_too_much_is_written_and_refused(tmp_path: Path) -> None:
    # A tenth of the pixels is one level brighter: less than the step of INT8 between the model's convolutions.
    folder = write_tiny_model(tmp_path / "models")
    pictures = write_pictures(tmp_path / "pictures", 150, dark=100, bright=100.1, noise=0)
    done = flask(
        *("models", "compile", "tiny-brightness", "--int8", str(pictures)),
        models=str(tmp_path / "models"),
        instance=str(tmp_path / "instance"),
    )
    assert done.returncode == 1
    assert "REFUSED tiny-brightness/1.0: the AUC drops by 0." in done.stderr
    assert json.loads((folder / "compiled_int8/report.json").read_text())["accepted"] is False
    assert serve(tmp_path / "models", tmp_path / "instance", "int8")["precision"] == "f32"


@pytest.mark.parametrize(
    "change, reason",
    [
        ({}, ""),
        ({"auc_drop": 0.0021, "auc_drop_high": 0.003}, r"the AUC drops by 0.0021, and at most 0.002 is allowed"),
        ({"auc_drop_high": 0.0021}, r"too small to tell: the AUC may drop by 0.0021 \(upper end of the 95 % interval"),
        ({"measured_pictures": {"dark": 500, "bright": 99}}, r"too small to tell: .* 99 pictures of bright are left"),
        ({"auc_f32": 0.59}, r"only 0.590: are these the right pictures"),
        ({"auc_drop": float("nan")}, r"the AUC drops by nan"),
        ({"auc_drop_high": float("nan")}, r"may drop by nan"),
        ({"auc_f32": float("nan")}, r"only nan"),
    ],
)
def test_figures_decide_whether_it_may_serve(change: dict[str, Any], reason: str) -> None:
    report = Int8Report(**{**vars(SOUND), **change})
    if reason:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(report.refusal)
    else:
        assert report.refusal == ""


def test_accepted_model_serves_where_the_operator_asked_for_it(models: Path, tiny: Path, tmp_path: Path) -> None:
    report = read(tiny)
    assert serve(models, tmp_path / "one", "f32")["precision"] == "f32"
    compiled = serve(models, tmp_path / "two", "int8")
    assert (compiled["precision"], compiled["ir_sha256"]) == ("int8", report.ir_sha256)
    assert compiled["int8"]["images_measured"] == 200
    assert compiled["int8"]["max_probability_change"] == report.max_probability_change


def test_int8_answers_differ_from_float32_by_what_the_report_says(models: Path, tiny: Path, tmp_path: Path) -> None:
    pictures = find_pictures(write_pictures(tmp_path / "pictures", 150, 80, 120), CLASSES)
    bodies = [picture.path.read_bytes() for picture in split_pictures(pictures)[1]]
    values = []
    for precision in ("f32", "int8"):
        registry = load_models(Settings(models=models, instance=tmp_path, precision=precision))
        served = registry.table.get_served("tiny-brightness")
        values.append([served.predict(body)[0].decision.probabilities["bright"] for body in bodies])
        registry.close()
    largest = max(abs(one - other) for one, other in zip(*values, strict=True))
    assert largest == pytest.approx(read(tiny).max_probability_change, abs=1e-6)


def edit_report(folder: Path, **change: object) -> None:
    path = folder / "compiled_int8/report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def edit_manifest(folder: Path, old: str, new: str) -> None:
    """Change the manifest, and make the compiled model fit it again."""
    path = folder / "model.toml"
    path.write_text(path.read_text().replace(old, new))
    report = folder / "compiled/report.json"
    changed = json.loads(report.read_text()) | {"graph_sha256": read_manifest(folder).graph_sha256}
    report.write_text(json.dumps(changed))


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda folder: shutil.rmtree(folder / "compiled_int8"), "there is no INT8 model"),
        (lambda folder: (folder / "compiled_int8/report.json").write_text("{}"), "the INT8 model cannot be read"),
        (lambda folder: edit_report(folder, auc_drop="much"), "the INT8 model cannot be read"),
        (lambda folder: edit_report(folder, measured_pictures={}), "the INT8 model cannot be read"),
        (lambda folder: edit_report(folder, auc_drop=0.5), "the AUC drops by 0.5000"),
        (lambda folder: edit_report(folder, artifact_sha256="0"), "made from another artifact"),
        (lambda folder: edit_report(folder, f32_ir_sha256="0"), "made from another compiled model"),
        (lambda folder: (folder / "compiled_int8/model.bin").write_bytes(b"x"), "changed after it was made"),
        (lambda folder: edit_manifest(folder, "mean = [0.0", "mean = [1.0"), "for another [input] or [output]"),
        (lambda folder: edit_manifest(folder, '["dark", "bright"]', '["bright", "dark"]'), "for another [input]"),
    ],
    ids=[
        *("absent", "no report", "a word for a figure", "no counts", "a loss", "another artifact"),
        *("another compiled model", "changed", "another input", "other classes"),
    ],
)
def test_int8_model_that_does_not_fit_leaves_float32_serving_and_the_log_says_why(
    models: Path, tiny: Path, tmp_path: Path, damage: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(tiny)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        registry = load_models(Settings(models=models, instance=tmp_path, precision="int8"))
    entry = registry.table.get("tiny-brightness")
    assert (entry.state, entry.int8) == (State.READY, None)
    assert [(record.message, reason in record.reason) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("model served in float32", True)
    ]
    registry.close()


def test_int8_model_that_was_exchanged_is_not_loaded_by_a_server_that_accepted_the_old_one(
    models: Path, tiny: Path, tmp_path: Path
) -> None:
    settings = Settings(models=models, instance=tmp_path, precision="int8")
    registry = load_models(settings, loaded_at_start=0)
    (tiny / "compiled_int8/model.bin").write_bytes(b"another")
    picture = write_pictures(tmp_path / "pictures", 1, 80, 120) / "1/000.png"
    with pytest.raises(InferenceError):
        registry.table.get_served("tiny-brightness").predict(picture.read_bytes())
    registry.work(0)
    entry = registry.table.get("tiny-brightness")
    assert entry.state is State.UNAVAILABLE
    assert "was changed since its report was read" in entry.reason
    work_until(registry, lambda: registry.table.get("tiny-brightness").state is State.READY, 30)
    assert registry.table.get("tiny-brightness").int8 is None
    registry.close()


def test_check_finds_an_int8_model_that_was_changed(models: Path, tiny: Path, tmp_path: Path) -> None:
    (tiny / "compiled_int8/model.bin").write_bytes(b"x")
    with pytest.raises(CompiledModelError, match="the INT8 model was changed"):
        check_folder(ModelFolder(tiny), Settings(models=models, instance=tmp_path))


def test_check_passes_a_sound_int8_model_on_to_the_examples(models: Path, tiny: Path, tmp_path: Path) -> None:
    settings = Settings(models=models, instance=tmp_path)
    assert check_folder(ModelFolder(tiny), settings) is None  # it has no examples
    (tiny / "examples").mkdir()
    (tiny / "examples/one.png").touch()
    with pytest.raises(IntegrityError, match=r"examples/expected\.json cannot be read"):
        check_folder(ModelFolder(tiny), settings)


def test_unreadable_picture_stops_it_by_its_relative_name_and_leaves_nothing(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "models")
    pictures = write_pictures(tmp_path / "pictures", 3, 80, 120)
    for path in (pictures / "1").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CompiledModelError) as caught:
        quantize_in_process(folder, pictures, Settings(instance=tmp_path))
    assert caught.value.message.startswith("1/00")
    assert caught.value.message.endswith(".png: The picture is truncated or damaged.")
    assert sorted(path.name for path in folder.iterdir()) == ["compiled", "model.safetensors", "model.toml"]


def test_unreadable_file_is_named_by_class_and_name(tmp_path: Path) -> None:
    spec = read_manifest(write_tiny_model(tmp_path / "models")).input
    with pytest.raises(PicturesError, match=r"^1/absent\.png cannot be read: No such file or directory$"):
        read_picture(tmp_path / "1/absent.png", spec, ImageLimits(100, 100))


def test_without_nncf_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_model(tmp_path / "models")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FrameworkMissingError, match=r"nncf is not installed.*pip install -r requirements_int8\.txt"):
        quantize_in_process(folder, tmp_path, Settings(instance=tmp_path))


def test_model_that_runs_natively_is_not_quantized(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "models")
    edit_manifest(folder, 'framework = "torch"', 'framework = "torch"\nengine = "native"')
    with pytest.raises(CompiledModelError, match="nothing to quantize"):
        quantize_in_process(folder, tmp_path, Settings(instance=tmp_path))


def test_command_needs_the_name_of_a_model(tmp_path: Path) -> None:
    done = flask("models", "compile", "--int8", str(tmp_path))
    assert (done.returncode, "needs the NAME" in done.stderr) == (1, True)


@pytest.mark.parametrize("names", [("0", "1"), CLASSES])
def test_sub_folders_are_named_by_index_or_by_class(tmp_path: Path, names: tuple[str, str]) -> None:
    pictures = write_pictures(tmp_path, 3, 80, 120, names)
    (pictures / ".hidden").mkdir()
    (pictures / names[0] / ".hidden").touch()
    (pictures / "list.csv").touch()
    found = find_pictures(pictures, CLASSES)
    assert [(picture.path.parent.name, picture.label) for picture in found] == [(names[0], 0)] * 3 + [(names[1], 1)] * 3


@pytest.mark.parametrize(
    "names, holds",
    [(("0", "bright"), "0, bright"), (("dark", "light"), "dark, light"), (("0", "1", "2"), "0, 1, 2"), ((), "none")],
)
def test_other_sub_folders_are_refused_with_what_is_allowed(tmp_path: Path, names: tuple[str, ...], holds: str) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(PicturesError, match=rf"sub-folders dark, bright \(or 0, 1\) and no others; it holds {holds}$"):
        find_pictures(tmp_path, CLASSES)


def test_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PicturesError, match="cannot be read: No such file"):
        find_pictures(tmp_path / "absent", CLASSES)


def test_class_of_two_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PicturesError, match="0 holds 2 pictures; at least 3 are needed"):
        find_pictures(write_pictures(tmp_path, 2, 80, 120), CLASSES)


def test_folder_among_the_pictures_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3, 80, 120)
    (tmp_path / "1/more").mkdir()
    with pytest.raises(PicturesError, match="1/more is not a file; pictures must lie in 1 itself"):
        find_pictures(tmp_path, CLASSES)


@pytest.mark.parametrize("counts, calibration", [((150, 150), (50, 50)), ((3, 3), (1, 1)), ((2700, 300), (270, 30))])
def test_split_is_the_same_every_time_and_keeps_the_shares(
    tmp_path: Path, counts: tuple[int, int], calibration: tuple[int, int]
) -> None:
    for label, count in enumerate(counts):
        (tmp_path / str(label)).mkdir()
        for index in range(count):
            (tmp_path / str(label) / str(index)).touch()
    pictures = find_pictures(tmp_path, CLASSES)
    chosen, measured = split_pictures(pictures)
    assert tuple(sum(picture.label == label for picture in chosen) for label in (0, 1)) == calibration
    assert sorted(map(str, chosen + measured)) == sorted(map(str, pictures))
    assert (chosen, measured) == split_pictures(pictures)
