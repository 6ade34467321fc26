"""Models that come as programs: taken, compiled and served where they are trusted, and nowhere else."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app import create_app
from app.api.request.services import EXTENSION, Services
from app.compiling.folder_compiler import compile_in_process
from app.config.settings import Settings
from app.engines.base import build_engine
from app.errors import IntegrityError, ModelFolderError, ModelFormatError, SignatureError
from app.exchange.model_importer import add_model
from app.exchange.packing import pack_model
from app.manifest.model_manifest import read_manifest
from app.repository.model_check import check_folder
from app.repository.model_folder import ModelFolder
from app.repository.signing import sign_folder, trust_key
from tests.engines import programs
from tests.engines.programs import PROGRAMS, write_folder
from tests.repository.test_signing import make_key

# TensorFlow's and Keras' own imports warn of what their dependencies will drop.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
OFF = "programs that no trusted key has signed are not run here; SCANCER_PROGRAMS=all trusts every one"


@pytest.fixture
def off(tmp_path: Path) -> Settings:
    (tmp_path / "models").mkdir()
    return Settings(models=tmp_path / "models", instance=tmp_path / "instance")


@pytest.fixture
def every(off: Settings) -> Settings:
    """Of a server that trusts every program."""
    return replace(off, programs="all")


def bring(folder: Path, framework: str, write: Callable[[Path], Path]) -> tuple[Path, Path]:
    """An artifact and its manifest, without its hash, as somebody has them."""
    folder.mkdir(exist_ok=True)
    artifact = write(folder)
    manifest = folder / "brought.toml"
    manifest.write_text(programs.MANIFEST.format(framework=framework, file=artifact.name))
    return artifact, manifest


@pytest.mark.parametrize("name", ["TorchScript", "torch.export", "ONNX with weights beside", "SavedModel"])
def test_trusted_program_is_added_with_a_manifest_of_under_20_lines(tmp_path: Path, every: Settings, name: str) -> None:
    artifact, manifest = bring(tmp_path / "brought", *PROGRAMS[name])
    assert len(manifest.read_text().splitlines()) < 20
    folder = add_model(artifact, every, manifest)
    read = folder.read_manifest()
    assert folder.read_report(read).max_probability_difference < 1e-4
    folder.verify_artifact(read)


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_is_not_taken_unless_programs_are_trusted(tmp_path: Path, off: Settings, name: str) -> None:
    artifact, manifest = bring(tmp_path / "brought", *PROGRAMS[name])
    with pytest.raises(ModelFormatError, match=r"loading it can run code; SCANCER_PROGRAMS=all trusts every program$"):
        add_model(artifact, off, manifest)
    with pytest.raises(SignatureError, match=OFF):
        add_model(write_folder(tmp_path / "other", *PROGRAMS[name]), off)
    assert list(off.models.iterdir()) == []


def test_program_that_somebody_puts_there_is_neither_compiled_nor_served_unless_trusted(
    off: Settings, every: Settings, pcam_example: bytes
) -> None:
    folder = write_folder(off.models, *PROGRAMS["ONNX"])
    with pytest.raises(SignatureError, match=OFF):
        compile_in_process(folder, off)
    assert not (folder / "compiled").exists()
    compile_in_process(folder, every)
    for settings, state in ((off, "UNAVAILABLE"), (every, "READY")):
        app = create_app(replace(settings, auth="off"))
        services: Services = app.extensions[EXTENSION]
        client = app.test_client()
        description = client.get("/models/tiny-programs").json
        assert description is not None
        assert (description["state"], description["programs"]) == (state, settings.programs)
        answer = client.post("/predictions/tiny-programs", data=pcam_example)
        assert answer.status_code == (200 if state == "READY" else 503)
        services.follower.close()


def test_signed_program_is_taken_and_served_where_its_key_is_trusted(
    tmp_path: Path, off: Settings, every: Settings
) -> None:
    """Its compiled model comes along, so that nobody there runs it."""
    artifact, manifest = bring(tmp_path / "brought", *PROGRAMS["ONNX with weights beside"])
    folder = add_model(artifact, every, manifest)
    key, line = make_key(tmp_path, "publisher")
    sign_folder(folder, key)
    pack_model(folder, tmp_path / "packed.zip")
    shutil.rmtree(folder.path.parent)
    with pytest.raises(SignatureError, match="not trusted"):
        add_model(tmp_path / "packed.zip", off)
    trust_key(off.instance, line)
    taken = add_model(tmp_path / "packed.zip", off)
    with (taken.path / "network.onnx.data").open("r+b") as file:
        file.write(b"other")
    with pytest.raises(IntegrityError, match=r"network\.onnx is not the file"):
        check_folder(taken, off)


def test_every_file_of_an_artifact_is_hashed(tmp_path: Path) -> None:
    folder = ModelFolder(write_folder(tmp_path, *PROGRAMS["SavedModel for one picture"]))
    manifest = folder.read_manifest()
    folder.verify_artifact(manifest)
    saved = folder.path / manifest.artifact.file
    (saved / "assets").mkdir(exist_ok=True)
    (saved / "assets/more.txt").touch()
    with pytest.raises(IntegrityError, match="is not the file"):
        folder.verify_artifact(manifest)
    (saved / "assets/more.txt").unlink()
    folder.verify_artifact(manifest)
    (saved / "saved_model.pb").rename(tmp_path / "elsewhere.pb")
    (saved / "saved_model.pb").symlink_to(tmp_path / "elsewhere.pb")
    with pytest.raises(IntegrityError, match="is not a plain file"):
        folder.verify_artifact(manifest)


def test_weights_beside_keep_their_name(tmp_path: Path, every: Settings) -> None:
    artifact, manifest = bring(tmp_path / "brought", *PROGRAMS["ONNX with weights beside"])
    manifest.write_text(manifest.read_text().replace("network.onnx", "other.onnx"))
    with pytest.raises(ModelFormatError, match=r"has its weights in network\.onnx\.data: artifact\.file must be"):
        add_model(artifact, every, manifest)


def test_program_under_another_frameworks_name_is_refused(tmp_path: Path, every: Settings) -> None:
    artifact, manifest = bring(tmp_path / "brought", "onnx", programs.write_scripted)
    manifest.write_text(manifest.read_text().replace("network.pt", "network.onnx"))
    with pytest.raises(ModelFormatError, match=r'is TorchScript; by its name, and framework = "onnx", it should be an'):
        add_model(artifact, every, manifest)


WIDE = ("width_px = 32", "width_px = 64")
REFUSED: dict[str, tuple[str, Callable[[Path], Path], tuple[str, str], str]] = {
    "four pictures at a time": (
        "torch_export",
        programs.write_exported_for_four,
        ("", ""),
        r"network\.pt2 takes 4 pictures at a time; export it for 1, or for any number",
    ),
    "another size": (
        "onnx",
        programs.write_onnx_for_one,
        WIDE,
        r"takes \[1, 3, 32, 32\], and not \[N, 3, 32, 64\] or \[N, 32, 64, 3\]",
    ),
    "another size of SavedModel": (
        "saved_model",
        programs.write_saved_model_for_one,
        WIDE,
        r"takes \[1, 32, 32, 3\], and not \[N, 32, 64, 3\] or \[N, 3, 32, 64\] as the manifest's \[input\] says",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_program_with_another_input_is_refused_by_what_it_takes(tmp_path: Path, name: str) -> None:
    framework, write, change, reason = REFUSED[name]
    folder = write_folder(tmp_path, framework, write)
    path = folder / "model.toml"
    path.write_text(path.read_text().replace(*change))
    engine = build_engine(framework, folder, read_manifest(folder), 1)
    with pytest.raises(ModelFolderError, match=reason):
        engine.load()


@pytest.mark.parametrize("name", ["TorchScript", "torch.export", "ONNX", "SavedModel"])
def test_damaged_program_is_refused(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    framework, write = PROGRAMS[name]
    folder = write_folder(tmp_path, framework, write)
    manifest = read_manifest(folder)
    artifact = folder / manifest.artifact.file
    file = artifact / "saved_model.pb" if artifact.is_dir() else artifact
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelFolderError, match=rf"cannot load {manifest.artifact.file}"):
        build_engine(framework, folder, manifest, 1).load()
