"""Every rule of `model.toml` holds, and a broken one names its key."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.errors import ManifestError
from app.manifest.bounds import show
from app.manifest.model_manifest import MAX_MANIFEST_BYTES, ModelManifest, parse_manifest, read_manifest
from app.manifest.model_specs import FRAMEWORKS

SHIPPED = sorted((PROJECT_ROOT / "models").glob("*/*/model.toml"))
VALID = """
name = "pcam-classification"
version = "1.0"
title = "Metastatic tissue"
description = "Whether a patch holds metastatic tissue."
framework = "torch"
engine = "native"
licence = "CC0-1.0"
intended_use = "Research use only."

[artifact]
file = "model.safetensors"
sha256 = "8dc2a3b765146431be211479e883d34260623535071fb828752e28c7121405b7"
architecture = "efficientnet_lite0"

[input]
width_px = 96
height_px = 64
resize = "bilinear"
mean = [127.0, 126, 125.5]
std = [128, 64.0, 1]
um_per_px = 0.972
jpeg_min_scale = 3
colour = "RGB"

[batch]
max_size = 12
max_delay_ms = 2.5

[output]
classes = ["normal", "metastatic"]
activation = "softmax"
positive_class = "metastatic"
threshold = 0.41
threshold_source = "validation split"

[metrics.auc]
value = 0.95
low = 0.94
high = 0.96
n = 1000
data = "test split"
"""
GONE = object()  # a key that is left out


def parse(changes: dict[str, Any]) -> ModelManifest:
    """Parse the valid manifest with some keys changed, added or left out."""
    document = tomllib.loads(VALID)
    for path, value in changes.items():
        *tables, key = path.split(".")
        table = document
        for name in tables:
            table = table[name]
        if value is GONE:
            del table[key]
        else:
            table[key] = value
    return parse_manifest(document)


def write(folder: Path, text: str | bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def test_valid_manifest_is_read_whole() -> None:
    manifest = parse({})
    assert (manifest.name, manifest.version, manifest.framework, manifest.engine) == (
        "pcam-classification",
        "1.0",
        "torch",
        "native",
    )
    assert manifest.title == "Metastatic tissue"
    assert manifest.description == "Whether a patch holds metastatic tissue."
    assert (manifest.licence, manifest.intended_use) == ("CC0-1.0", "Research use only.")
    assert (manifest.artifact.file, manifest.artifact.architecture) == ("model.safetensors", "efficientnet_lite0")
    assert manifest.artifact.sha256.startswith("8dc2a3b7")
    assert (manifest.input.width_px, manifest.input.height_px, manifest.input.resize) == (96, 64, "bilinear")
    assert (manifest.input.mean, manifest.input.std) == ((127.0, 126.0, 125.5), (128.0, 64.0, 1.0))
    assert manifest.input.um_per_px == 0.972
    assert (manifest.input.jpeg_min_scale, manifest.input.jpeg_min_size) == (3.0, (288, 192))
    assert (manifest.batch.max_size, manifest.batch.max_delay_ms) == (12, 2.5)
    assert (manifest.output.classes, manifest.output.activation) == (("normal", "metastatic"), "softmax")
    assert (manifest.output.positive_class, manifest.output.threshold) == ("metastatic", 0.41)
    assert manifest.output.threshold_source == "validation split"
    assert manifest.output.outputs == 2
    auc = manifest.metrics["auc"]
    assert (auc.value, auc.low, auc.high, auc.n, auc.data) == (0.95, 0.94, 0.96, 1000, "test split")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_shipped_manifests_are_valid(path: Path) -> None:
    assert read_manifest(path.parent).name == path.parent.parent.name


def test_optional_keys_may_be_left_out() -> None:
    optional = ("engine", "input.um_per_px", "input.colour", "input.jpeg_min_scale", "batch", "metrics")
    manifest = parse(dict.fromkeys(optional, GONE))
    assert (manifest.engine, manifest.input.um_per_px, dict(manifest.metrics)) == ("compiled", None, {})
    assert manifest.input.jpeg_min_size is None
    assert (manifest.batch.max_size, manifest.batch.max_delay_ms) == (8, 5.0)


def test_words_that_only_describe_may_be_left_out() -> None:
    manifest = parse(dict.fromkeys(("title", "description", "licence", "intended_use"), GONE))
    assert (manifest.title, manifest.description, manifest.licence) == ("pcam-classification", "", "not stated")
    assert manifest.intended_use == "Research use only. Not for diagnosis."


def test_keras_manifest_has_no_architecture() -> None:
    changes = {"framework": "keras", "artifact.file": "model.keras", "artifact.architecture": GONE}
    assert parse(changes).artifact.architecture is None


@pytest.mark.parametrize("file", ["model.keras", "model.h5"])
def test_keras_has_two_kinds_of_file(file: str) -> None:
    changes = {"framework": "keras", "artifact.file": file, "artifact.architecture": GONE}
    assert parse(changes).artifact.file == file


def test_scores_are_logits_unless_the_manifest_says_otherwise() -> None:
    assert parse({}).output.scores == "logits"
    assert parse({"output.scores": "probabilities"}).output.scores == "probabilities"
    lone = parse({"output.scores": "probabilities", "output.activation": "sigmoid"}).output
    assert (lone.outputs, lone.positive_class) == (1, "metastatic")


def test_sigmoid_has_one_output() -> None:
    assert parse({"output.activation": "sigmoid"}).output.outputs == 1


def test_three_classes_need_no_threshold() -> None:
    without = {f"output.{key}": GONE for key in ("positive_class", "threshold", "threshold_source")}
    output = parse({"output.classes": ["a", "b", "c"], **without}).output
    assert (output.outputs, output.positive_class, output.threshold) == (3, None, None)


REQUIRED = [
    "name",
    "version",
    "framework",
    "artifact",
    "artifact.file",
    "artifact.sha256",
    "artifact.architecture",
    "input",
    "input.width_px",
    "input.height_px",
    "input.resize",
    "input.mean",
    "input.std",
    "output",
    "output.classes",
    "output.activation",
    "metrics.auc.value",
    "metrics.auc.low",
    "metrics.auc.high",
    "metrics.auc.n",
    "metrics.auc.data",
]


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_key_is_named(key: str) -> None:
    with pytest.raises(ManifestError, match=rf"^model\.toml: {key} is missing$"):
        parse({key: GONE})


WRONG_TYPES = {
    "name": 1,
    "version": 1.0,
    "title": ["a"],
    "artifact": "model.safetensors",
    "artifact.file": 3,
    "input": [96, 96],
    "input.width_px": 96.0,
    "input.height_px": True,
    "input.mean": 127,
    "input.um_per_px": "0.972",
    "output.classes": "normal, metastatic",
    "output.threshold": True,
    "output.threshold_source": 1,
    "metrics": "good",
    "metrics.auc": 0.95,
    "metrics.auc.n": 1000.0,
}


@pytest.mark.parametrize("key", WRONG_TYPES)
def test_value_of_a_wrong_type_is_named(key: str) -> None:
    with pytest.raises(ManifestError, match=rf"^model\.toml: {key} must be of type "):
        parse({key: WRONG_TYPES[key]})


BROKEN_RULES = [
    ("name", "pcam", "must be two or more words of small letters and digits, joined by dashes, such as "),
    (
        "name",
        "PCam-classification",
        "must be two or more words of small letters and digits, joined by dashes, such as ",
    ),
    (
        "name",
        "pcam-classification\n",
        "must be two or more words of small letters and digits, joined by dashes, such as ",
    ),
    (
        "name",
        "../pcam-classification",
        "must be two or more words of small letters and digits, joined by dashes, such as ",
    ),
    ("name", "a-" + "b" * 62, "must have at most 63 characters"),
    ("version", "", "must be at most 32 letters, digits, dots"),
    ("version", "..", "must be at most 32 letters, digits, dots"),
    ("version", "1/0", "must be at most 32 letters, digits, dots"),
    ("version", "1" * 33, "must be at most 32 letters, digits, dots"),
    ("framework", "tensorflow", "must be one of torch, keras"),
    ("engine", "fast", "must be one of compiled, native"),
    ("artifact.sha256", "8dc2", "must be 64 digits and letters from a to f"),
    ("artifact.sha256", "8DC2" * 16, "must be 64 digits and letters from a to f"),
    ("input.width_px", 0, "must be a whole number from 1 to 4096 px"),
    ("input.height_px", 4097, "must be a whole number from 1 to 4096 px"),
    ("input.resize", "area", "must be one of nearest, bilinear, bicubic, lanczos"),
    ("input.colour", "BGR", "must be one of RGB"),
    ("input.mean", [127.0, 127.0], "must be three numbers from 0 to 255"),
    ("input.mean", [127.0, 127.0, 256.0], "must be a number from 0 to 255"),
    ("input.mean", [127.0, 127.0, float("nan")], "must be a number from 0 to 255"),
    ("input.mean", [127.0, 127.0, True], "must be a number from 0 to 255"),
    ("input.mean", [127.0, 127.0, "127"], "must be three numbers from 0 to 255"),
    ("input.std", [0.0, 1.0, 1.0], "must be a number from 0.001 to 1000"),
    ("input.std", [1.0, 1.0, float("inf")], "must be a number from 0.001 to 1000"),
    ("input.um_per_px", 0, "must be a number from 0.001 to 10000"),
    ("input.um_per_px", float("nan"), "must be a number from 0.001 to 10000"),
    ("input.jpeg_min_scale", 1.5, "must be a number from 2 to 100"),
    ("batch.max_size", 0, "must be a whole number from 1 to 128"),
    ("batch.max_size", 129, "must be a whole number from 1 to 128"),
    ("batch.max_delay_ms", -1, "must be a number from 0 to 60000 ms"),
    ("batch.max_delay_ms", 60_001, "must be a number from 0 to 60000 ms"),
    ("batch.max_delay_ms", float("nan"), "must be a number from 0 to 60000 ms"),
    ("batch.max_size", 2_000_000_000, "must be a whole number from 1 to 128"),
    ("input.width_px", int("0x1" + "0" * 5000, 16), "must be a whole number from 1 to 4096 px"),
    ("output.classes", ["metastatic"], "must be at least two"),
    ("output.classes", [], "must be at least two"),
    ("output.classes", ["metastatic", "metastatic"], "must be distinct, non-empty strings"),
    ("output.classes", ["", "metastatic"], "must be distinct, non-empty strings"),
    ("output.classes", [1, "metastatic"], "must be distinct, non-empty strings"),
    ("output.classes", [["normal"], "metastatic"], "must be distinct, non-empty strings"),
    ("output.activation", "none", "must be one of softmax, sigmoid"),
    ("output.scores", "percent", "must be one of logits, probabilities"),
    ("output.positive_class", "tumour", "must be one of classes"),
    ("output.threshold", 1.01, "must be a number from 0 to 1"),
    ("output.threshold", -0.01, "must be a number from 0 to 1"),
    ("output.threshold", float("nan"), "must be a number from 0 to 1"),
    ("metrics.auc.value", 1.5, "must be a number from 0 to 1"),
    ("metrics.auc.n", 0, "must be a whole number from 1 to 1000000000"),
]


@pytest.mark.parametrize("key, value, rule", BROKEN_RULES, ids=show)
def test_broken_rule_is_named_with_its_key(key: str, value: object, rule: str) -> None:
    with pytest.raises(ManifestError) as raised:
        parse({key: value})
    assert re.match(
        rf"model\.toml: {re.escape(key)}(=\S.* is not allowed: it)? {re.escape(rule)}", raised.value.message
    )


@pytest.mark.parametrize("key", ["positive_class", "threshold", "threshold_source"])
def test_two_classes_need_the_whole_operating_point(key: str) -> None:
    with pytest.raises(ManifestError, match="of two need positive_class, threshold and threshold_source"):
        parse({f"output.{key}": GONE})


@pytest.mark.parametrize("kept", ["positive_class", "threshold", "threshold_source"])
def test_three_classes_have_no_part_of_an_operating_point(kept: str) -> None:
    others = {f"output.{key}": GONE for key in ("positive_class", "threshold", "threshold_source") if key != kept}
    with pytest.raises(ManifestError, match="has a meaning for two classes only"):
        parse({"output.classes": ["normal", "metastatic", "other"], **others})


def test_sigmoid_needs_the_positive_class_last() -> None:
    with pytest.raises(ManifestError, match="sigmoid needs two classes, the positive one last"):
        parse({"output.activation": "sigmoid", "output.positive_class": "normal"})


def test_sigmoid_of_three_classes_is_refused() -> None:
    with pytest.raises(ManifestError, match="sigmoid needs two classes"):
        parse({"output.activation": "sigmoid", "output.classes": ["normal", "metastatic", "other"]})


@pytest.mark.parametrize(
    "key", ["treshold", "artifact.url", "input.size", "output.labels", "metrics.auc.interval", "handler"]
)
def test_leftover_key_is_named(key: str) -> None:
    with pytest.raises(ManifestError, match=rf"^model\.toml: {key} is not known(; .*)?$"):
        parse({key: "x"})


MISSPELT = [
    (
        "output.threshold_sorce",
        "output.threshold_source",
        r"threshold_sorce is not known; did you mean threshold_source\?",
    ),
    ("output.positve_class", "output.positive_class", r"positve_class is not known; did you mean positive_class\?"),
    ("output.score", "metrics", r"output\.score is not known; did you mean scores\?"),
    ("input.widht_px", "input.width_px", r"input\.width_px is missing; was it meant by widht_px\?"),
    ("imput", "input", r"model\.toml: input is missing; was it meant by imput\?"),
    ("licens", "licence", r"licens is not known; did you mean licence\?"),
    ("threshold", "output.threshold", r"model\.toml: threshold is not known; it belongs to \[output\]"),
    ("output.mean", "metrics", r"output\.mean is not known; it belongs to \[input\]"),
]


@pytest.mark.parametrize("found, meant, told", MISSPELT)
def test_misspelt_or_misplaced_key_is_named_with_what_was_meant(found: str, meant: str, told: str) -> None:
    with pytest.raises(ManifestError, match=told):
        parse({found: {} if "put" in found and "." not in found else "x", meant: GONE})


def test_name_of_one_word_is_refused_in_words() -> None:
    with pytest.raises(ManifestError, match=r'joined by dashes, such as "lesions-classification"; it is "lesions"$'):
        parse({"name": "lesions"})


def test_architecture_of_a_keras_model_is_a_leftover_key() -> None:
    with pytest.raises(ManifestError, match=r"artifact\.architecture is not known$"):
        parse({"framework": "keras", "artifact.file": "model.keras"})


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "weights/model.safetensors",
        "weights\\model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        ".model.safetensors",
        "..safetensors",
        "~model.safetensors",
        "model.safetensors\0",
        "model.safetensors\n",
        "model .safetensors",
        "%2e%2e%2fmodel.safetensors",
        "mödel.safetensors",
        "",
        "m" * 129 + ".safetensors",
    ],
)
def test_path_in_the_artifacts_name_is_refused(file: str) -> None:
    with pytest.raises(ManifestError, match=r"^model\.toml: artifact\.file must be a file name of letters"):
        parse({"artifact.file": file})


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
@pytest.mark.parametrize("file", ["model.mar", "model.pkl", "model", "model.zip", "compiled", "model.toml"])
def test_artifact_that_is_called_otherwise_is_refused(framework: str, file: str) -> None:
    wanted = " or ".join(map(re.escape, FRAMEWORKS[framework].suffixes))
    with pytest.raises(ManifestError, match=rf'file must end in {wanted} for {framework}; it is "{re.escape(file)}"'):
        parse({"framework": framework, "artifact.file": file, "engine": "compiled"})


PROGRAMS = {"torchscript": "m.pt", "torch_export": "m.pt2", "onnx": "m.onnx", "saved_model": "m.savedmodel"}


@pytest.mark.parametrize("framework", PROGRAMS)
def test_program_names_no_architecture_and_is_compiled(framework: str) -> None:
    named = {"framework": framework, "artifact.file": PROGRAMS[framework], "engine": "compiled"}
    assert parse({**named, "artifact.architecture": GONE}).is_program
    with pytest.raises(ManifestError, match=r"artifact\.architecture is not known$"):
        parse(named)
    with pytest.raises(ManifestError, match=rf"engine must be compiled for {framework}"):
        parse({**named, "artifact.architecture": GONE, "engine": "native"})


@pytest.mark.parametrize("file", ["m.safetensors", "m.pt", "m.pth"])
def test_weights_name_their_architecture(file: str) -> None:
    assert not parse({"artifact.file": file}).is_program
    with pytest.raises(ManifestError, match=r"artifact\.architecture is missing"):
        parse({"artifact.file": file, "artifact.architecture": GONE})


def test_graph_hash_follows_what_decides_the_numbers_and_nothing_else() -> None:
    plain = parse({}).graph_sha256
    same = {"title": "Another", "output.threshold": 0.9, "output.classes": ["other", "metastatic"], "metrics": GONE}
    same |= {"input.jpeg_min_scale": GONE, "input.channel_order": "RGB", "batch": GONE}
    assert parse(same).graph_sha256 == plain
    for key, value in (
        ("input.mean", [0, 0, 0]),
        ("input.std", [1, 1, 1]),
        ("input.width_px", 97),
        ("input.resize", "bicubic"),
        ("input.channel_order", "BGR"),
        ("artifact.architecture", "resnet18"),
        ("output.activation", "sigmoid"),
        ("output.scores", "probabilities"),
    ):
        assert parse({key: value}).graph_sha256 != plain, key


def test_manifest_in_its_own_folder_is_read(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path / "pcam-classification" / "1.0", VALID)).version == "1.0"


@pytest.mark.parametrize("folder", ["pcam-classification/1.1", "isic-classification/1.0", "1.0/pcam-classification"])
def test_manifest_in_anothers_folder_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ManifestError, match=f"is of pcam-classification/1.0, but its folder is {folder}"):
        read_manifest(write(tmp_path / folder, VALID))


def test_missing_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"^model\.toml is missing$"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "name = ",
        VALID + 'name = "twice"\n[artifact]\n',
        b"\xff\xfe\x00",
        "title = " + "[" * 10_000,
        "created = 2026-13-45",
        "\0",
    ],
    ids=["cut", "a table twice", "not UTF-8", "too deep", "no date", "NUL"],
)
def test_manifest_that_is_no_toml_says_so(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(ManifestError, match=r"^model\.toml is not TOML: "):
        read_manifest(write(tmp_path / "pcam-classification" / "1.0", text))


def test_manifest_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    text = VALID + "#" * MAX_MANIFEST_BYTES
    with pytest.raises(ManifestError, match=rf"^model\.toml is larger than {MAX_MANIFEST_BYTES} bytes$"):
        read_manifest(write(tmp_path / "pcam-classification" / "1.0", text))


def test_manifest_that_is_a_folder_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.toml").mkdir()
    with pytest.raises(ManifestError, match=r"^model\.toml cannot be read: "):
        read_manifest(tmp_path)
