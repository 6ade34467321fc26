"""Archives as honest tools write them are read; what comes out is what went in."""

import gzip
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.setting_types import PROJECT_ROOT
from app.errors import ArchiveError, IntegrityError
from app.exchange.packing import pack_model
from app.exchange.unpacking import ArchiveLimits, unpack, verify_zip
from app.repository.model_folder import ModelFolder

LIMITS = ArchiveLimits(bytes=100 << 20)
FILES = {"model.toml": b'name = "a-b"\n', "a/b/c.bin": os.urandom(300_000), "empty.md": b""}


class Unseekable(io.RawIOBase):
    """A stream that a zip can only be written to with its sizes behind the data."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._file.write(data)  # type: ignore[arg-type]

    def close(self) -> None:
        self._file.close()
        super().close()


def read_back(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_files(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("large", [False, True], ids=["plain", "zip64"])
def test_zip_is_read(tmp_path: Path, method: int, large: bool) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", method) as archive:
        for name, data in FILES.items():
            with archive.open(name, "w", force_zip64=large) as member:
                member.write(data)
    assert read_back(unpack(tmp_path / "a", tmp_path / "out", LIMITS)) == FILES


def test_zip_with_sizes_behind_the_data_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(Unseekable(tmp_path / "a"), "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        for name, data in FILES.items():
            archive.writestr(name, data)
    assert read_back(unpack(tmp_path / "a", tmp_path / "out", LIMITS)) == FILES


def test_zip_of_another_tool_is_read(tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "a"), "zip", write_files(tmp_path / "in"))  # with entries for folders
    assert read_back(unpack(tmp_path / "a.zip", tmp_path / "out", LIMITS)) == FILES


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tgz_is_read(tmp_path: Path, form: int) -> None:
    write_files(tmp_path / "in")
    with tarfile.open(tmp_path / "a", "w:gz", format=form) as archive:
        for name in FILES:
            archive.add(tmp_path / "in" / name, name)
    assert read_back(unpack(tmp_path / "a", tmp_path / "out", LIMITS)) == FILES


@pytest.mark.parametrize("kind", ["zip", "tgz", "folder"])
def test_hidden_files_are_passed_over_and_count_for_the_limits(tmp_path: Path, kind: str) -> None:
    root = write_files(tmp_path / "in/a-b-1.0")
    for name in (".DS_Store", "a-b-1.0/a/.hidden/x.bin", "__MACOSX/._a-b-1.0"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(bytes(1000))
    source = tmp_path / "in"
    if kind == "zip":
        source = Path(shutil.make_archive(str(tmp_path / "a"), "zip", source))
    elif kind == "tgz":
        source = tmp_path / "a"
        with tarfile.open(source, "w:gz") as archive:
            for path in (tmp_path / "in").iterdir():
                archive.add(path, path.name)
    unpacked = unpack(source, tmp_path / "out", LIMITS)
    assert (unpacked.name, read_back(unpacked)) == (root.name, FILES)
    assert read_back(tmp_path / "out").keys() == {f"a-b-1.0/{name}" for name in FILES}
    total = sum(map(len, FILES.values()))
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        unpack(source, tmp_path / "again", ArchiveLimits(total + 2999))


def test_one_root_folder_is_passed_over(tmp_path: Path) -> None:
    write_files(tmp_path / "in")
    with tarfile.open(tmp_path / "a", "w:gz") as archive:
        archive.add(tmp_path / "in", "a-b-1.0")
    assert unpack(tmp_path / "a", tmp_path / "out", LIMITS) == tmp_path / "out/a-b-1.0"
    assert read_back(tmp_path / "out/a-b-1.0") == FILES


def test_folder_is_read(tmp_path: Path) -> None:
    assert read_back(unpack(write_files(tmp_path / "in"), tmp_path / "out", LIMITS)) == FILES


def test_exactly_the_limits_are_allowed(tmp_path: Path) -> None:
    write_files(tmp_path / "in")
    total = sum(map(len, FILES.values()))
    unpack(tmp_path / "in", tmp_path / "out", ArchiveLimits(total, members=5))
    for limits in (ArchiveLimits(total - 1), ArchiveLimits(total, members=4)):
        with pytest.raises(ArchiveError, match="that are allowed"):
            unpack(tmp_path / "in", tmp_path / "again", limits)
        assert not (tmp_path / "again").exists()


def test_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    write_files(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "in", tmp_path / "out", LIMITS)
    assert (tmp_path / "out/mine").exists()


def test_bomb_that_is_only_verified_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(64 << 20))
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        verify_zip(tmp_path / "a", LIMITS)


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_archive_is_refused_or_read_and_never_more(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    """Any byte changed, any part cut: a reason, or (in what nobody reads) the same files."""
    folder = tmp_path_factory.mktemp("damaged")
    write_files(folder / "in")
    (folder / "in/a/b/c.bin").write_bytes(b"0123456789" * 9)
    expected = read_back(folder / "in")
    shutil.make_archive(str(folder / "good"), {"zip": "zip", "tgz": "gztar"}[kind], folder / "in")
    good = next(folder.glob("good.*")).read_bytes()
    if kind == "tgz":
        good = gzip.decompress(good)
    index = data.draw(st.integers(0, len(good) - 1))
    bad = good[:index] + data.draw(st.sampled_from([b"", b"\0", b"\xff", b"/", b"."])) + good[index + 1 :]
    (folder / "bad").write_bytes(gzip.compress(bad) if kind == "tgz" else bad)
    try:
        root = unpack(folder / "bad", folder / "out", LIMITS)
    except ArchiveError:
        assert not (folder / "out").exists()
    else:
        assert len(read_back(root)) == len(expected)
    assert {path.name for path in folder.iterdir()} <= {"in", "bad", "out", "good.zip", "good.tar.gz"}


def test_packing_writes_the_same_bytes_every_time_and_nothing_hidden(pcam: Path, tmp_path: Path) -> None:
    (pcam / ".compiling-1").mkdir()
    (pcam / ".compiling-1/model.xml").touch()
    pack_model(ModelFolder(pcam), tmp_path / "one.zip")
    shutil.rmtree(pcam / ".compiling-1")
    for path in pcam.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    pack_model(ModelFolder(pcam), tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert read_back(unpack(tmp_path / "one.zip", tmp_path / "out", LIMITS)) == read_back(pcam)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "one.zip", "out", "two.zip"]


def test_model_that_is_not_whole_is_not_packed(pcam: Path, tmp_path: Path) -> None:
    (pcam / "model.safetensors").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="is not the file"):
        pack_model(ModelFolder(pcam), tmp_path / "a.zip")
    (pcam / "a b.md").touch()
    shutil.copy(PROJECT_ROOT / "models/pcam-classification/1.0/model.safetensors", pcam)
    with pytest.raises(ArchiveError, match=r"a name that is not allowed: 'a b\.md'"):
        pack_model(ModelFolder(pcam), tmp_path / "a.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
