"""Adding a model: what is taken, what is filled in, and that a failure at any point leaves nothing or all."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import (
    CompiledModelError,
    DiskFullError,
    IntegrityError,
    ManifestError,
    ModelExistsError,
    ModelFolderError,
    ModelFormatError,
)
from app.exchange.model_importer import add_model
from app.exchange.packing import pack_model
from app.exchange.quarantine import Quarantine
from app.repository.model_check import check_folder
from app.repository.model_folder import ModelFolder, find_model_folders

ISIC = PROJECT_ROOT / "models/isic-classification/1.0"
EXAMPLE = PROJECT_ROOT / "models/pcam-classification/1.0/examples/synthetic-normal.png"
SHORT_MANIFEST = """\
name = "lesion-classification"
version = "2.0"
framework = "keras"
[artifact]
file = "lesion.keras"
[input]
width_px = 144
height_px = 144
resize = "bilinear"
mean = [127, 127, 127]
std = [128, 128, 128]
[output]
classes = ["benign", "malignant"]
activation = "softmax"
positive_class = "malignant"
threshold = 0.5
threshold_source = "none was chosen"
"""


@pytest.fixture
def empty(tmp_path: Path) -> Settings:
    """Settings of a server without models."""
    (tmp_path / "empty").mkdir()
    return Settings(models=tmp_path / "empty", instance=tmp_path / "instance")


def write_manifest(folder: Path, text: str) -> Path:
    (folder / "short.toml").write_text(text)
    return folder / "short.toml"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_packed_model_is_added_and_compiled_here_whatever_compiled_model_came_along(
    pcam: Path, tmp_path: Path, empty: Settings
) -> None:
    other = (ISIC / "compiled/model.bin").read_bytes()
    (pcam / "compiled/model.bin").write_bytes(other)
    pack_model(ModelFolder(pcam), tmp_path / "a.zip")
    folder = add_model(tmp_path / "a.zip", empty)
    assert folder.path == empty.models / "pcam-classification/1.0"
    assert (folder.path / "compiled/model.bin").read_bytes() != other
    assert (pcam / "compiled/model.bin").read_bytes() == other
    assert check_folder(folder, empty) <= 1e-3
    assert names(empty.models) == ["pcam-classification"]
    with pytest.raises(
        ModelExistsError, match=r"^pcam-classification/1\.0 exists already: give the new model another version; "
    ):
        add_model(tmp_path / "a.zip", empty)
    assert names(empty.models / "pcam-classification") == ["1.0"]


@pytest.mark.slow
def test_bare_file_with_a_manifest_of_under_20_lines_answers(tmp_path: Path, empty: Settings) -> None:
    from tests.engines.programs import write_onnx  # imports PyTorch

    text = SHORT_MANIFEST.replace("144", "32").replace('"keras"', '"onnx"').replace(".keras", ".onnx")
    assert len(text.splitlines()) < 20
    manifest, source = write_manifest(tmp_path, text), write_onnx(tmp_path)
    folder = add_model(source, replace(empty, programs="all"), manifest)
    read = folder.read_manifest()
    assert read.artifact.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (read.title, read.licence) == ("lesion-classification", "not stated")
    assert read.intended_use == "Research use only. Not for diagnosis."
    assert names(folder.path) == ["compiled", "lesion.onnx", "model.toml"]
    assert "sha256" not in manifest.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, error, reason",
    [
        (lambda f: (f / "model.toml").unlink(), ModelFolderError, "model.toml is missing|no file|is missing"),
        (lambda f: (f / "model.safetensors").unlink(), IntegrityError, "model.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), IntegrityError, "not the file"),
        (lambda f: shutil.copy(EXAMPLE, f / "examples/more.png"), IntegrityError, "does not name"),
        (lambda f: (f / "examples" / EXAMPLE.name).write_bytes(b"x"), CompiledModelError, "^The body is not a PNG"),
        (lambda f: (f / "examples/expected.json").write_text("{}"), IntegrityError, "cannot be read"),
        (
            lambda f: (f / "model.toml").write_text(
                (f / "model.toml").read_text().replace("efficientnet_lite0", "efficientnet_lite9")
            ),
            CompiledModelError,
            "is not one of",
        ),
    ],
    ids=[
        "no manifest",
        "no artifact",
        "another artifact",
        "one example more",
        "no picture",
        "no scores",
        "other architecture",
    ],
)
def test_folder_that_is_not_whole_is_refused(
    pcam: Path, empty: Settings, change: object, error: type[Exception], reason: str
) -> None:
    change(pcam)  # type: ignore[operator]
    with pytest.raises(error, match=reason):
        add_model(pcam, empty)
    assert names(empty.models) == []


def test_what_belongs_to_the_wrong_manifest_is_named(pcam: Path, tmp_path: Path, empty: Settings) -> None:
    manifest = write_manifest(tmp_path, SHORT_MANIFEST)
    with pytest.raises(ModelFormatError, match="comes without a manifest"):
        add_model(ISIC / "model.keras", empty)
    with pytest.raises(ModelFormatError, match="has a manifest of its own"):
        add_model(pcam, empty, manifest)
    with pytest.raises(
        ModelFormatError,
        match=r'lesion\.keras is safetensors; by its name, and framework = "keras", it should be a \.keras file',
    ):
        add_model(pcam / "model.safetensors", empty, manifest)
    with pytest.raises(ManifestError, match=r"artifact\.file must be a file name"):
        add_model(ISIC / "model.keras", empty, write_manifest(tmp_path, SHORT_MANIFEST.replace("lesion.k", "../k.k")))
    assert names(empty.models) == []


def test_file_over_the_limit_is_refused(tmp_path: Path, empty: Settings) -> None:
    small = Settings(models=empty.models, instance=empty.instance, max_model_bytes=1 << 20)
    with pytest.raises(ModelFormatError, match="larger than the 1048576 bytes"):
        add_model(ISIC / "model.keras", small, write_manifest(tmp_path, SHORT_MANIFEST))


def test_repository_that_is_not_there_is_named(pcam: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not a folder"):
        add_model(pcam, Settings(models=tmp_path / "absent", instance=tmp_path))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs the rights of root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_nothing_behind(pcam: Path, tmp_path: Path, full_disk: Path) -> None:
    with pytest.raises(DiskFullError, match="The disk is full"):
        add_model(pcam, Settings(models=full_disk, instance=tmp_path / "instance"))
    assert names(full_disk) == []


def test_disk_that_fills_while_compiling_is_told_from_a_bad_model(pcam: Path, tmp_path: Path, full_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=20m", str(full_disk)], check=True)
    with pytest.raises(DiskFullError, match="The disk is full"):
        add_model(pcam, Settings(models=full_disk, instance=tmp_path / "instance"))
    assert names(full_disk) == []


def test_leftover_of_a_killed_process_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".incoming-left"
    (left / "unpacked").mkdir(parents=True)
    with Quarantine(tmp_path) as one:
        assert not left.exists()
        with Quarantine(tmp_path) as two:
            assert one.path.is_dir()
            assert one.path != two.path
        assert names(tmp_path) == [one.path.name]
        assert find_model_folders(tmp_path) == []
    assert names(tmp_path) == []


def test_quarantine_is_locked_while_it_lives(tmp_path: Path) -> None:
    with Quarantine(tmp_path) as quarantine:
        descriptor = os.open(quarantine.path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_of_many_who_add_one_version_at_once_one_succeeds(tmp_path: Path) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def add(content: str, version: str) -> None:
        with Quarantine(tmp_path) as quarantine:
            folder = quarantine.path / "model/a-b" / version
            folder.mkdir(parents=True)
            (folder / "who").write_text(content)
            barrier.wait()
            try:
                quarantine.publish(ModelFolder(folder))
                outcomes.append(content)
            except ModelExistsError:
                pass

    threads = [threading.Thread(target=add, args=(str(n), f"1.{n % 2}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["a-b"]
    assert names(tmp_path / "a-b") == ["1.0", "1.1"]
    assert sorted(outcomes) == sorted((tmp_path / f"a-b/1.{n}/who").read_text() for n in (0, 1))


KILLED = """
import os, signal, sys
from pathlib import Path
from app.exchange.unpacking import ArchiveLimits, unpack
from app.repository.model_folder import ModelFolder
from app.exchange.quarantine import Quarantine

def add(point):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.scandir"):
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    with Quarantine(models) as quarantine:
        root = unpack(source, quarantine.path / "unpacked", ArchiveLimits(1 << 30))
        folder = quarantine.path / "model/pcam-classification/1.0"
        folder.parent.mkdir(parents=True)
        quarantine.publish(ModelFolder(root.rename(folder)))
    print(seen, end=" ", flush=True)

models, source = map(Path, sys.argv[1:])
for line in sys.stdin:
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    else:
        add(int(line))
        os._exit(0)
"""
"""For each line of input, adds a model in a child that is killed at that point, and prints how the child ended."""


@pytest.mark.slow
def test_process_that_is_killed_at_any_point_leaves_nothing_or_all(pcam: Path, tmp_path: Path) -> None:
    whole = {path.name: path.stat().st_size for path in pcam.rglob("*") if path.is_file()}
    models = tmp_path / "target"
    models.mkdir()
    command = [sys.executable, "-c", KILLED, str(models), str(pcam)]
    with subprocess.Popen(
        command, cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as program:

        def add_and_be_killed(point: int) -> list[int]:
            print(point, file=program.stdin)
            return [int(number) for number in program.stdout.readline().split()]  # type: ignore[union-attr]  # a pipe

        points, code = add_and_be_killed(-1)
        assert code == 0
        shutil.rmtree(models / "pcam-classification")
        outcomes = set()
        for point in range(1, points + 1, max(1, points // 30)):
            assert add_and_be_killed(point) == [-9]
            found = find_model_folders(models)
            outcomes.add(len(found))
            for folder in found:
                assert {p.name: p.stat().st_size for p in folder.path.rglob("*") if p.is_file()} == whole
            assert [name for name in names(models) if not name.startswith(".")] == ["pcam-classification"] * len(found)
            with Quarantine(models):
                pass
            assert names(models) == ["pcam-classification"] * len(found)
            shutil.rmtree(models / "pcam-classification", ignore_errors=True)
    assert outcomes == {0, 1}
