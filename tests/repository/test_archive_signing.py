"""Archives that a trusted key has signed run while programs are off; nothing that was changed since does."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from app.config import Settings
from app.errors import ModelFolderError, SignatureError
from app.repository.archive_loader import require_trust
from app.repository.archive_signing import sign_archive, verify_archive
from app.repository.model_importer import open_source
from app.repository.model_repository import ModelFolder
from app.repository.signing import sign_folder, trust_key, verify_folder
from tests.repository.test_signing import make_key

MODEL = {"modelName": "quick", "modelVersion": "1.0", "handler": "quick.py"}
FILES = {
    "MAR-INF/MANIFEST.json": json.dumps({"runtime": "python", "model": MODEL}),
    "quick.py": "def handle(data, context):\n    return ['quick'] * len(data or [])\n",
}


def pack(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("store", "models", "instance"):
        (tmp_path / name).mkdir()
    return Settings(models=tmp_path / "models", store=tmp_path / "store", instance=tmp_path / "instance")


@pytest.fixture
def key(tmp_path: Path, settings: Settings) -> Path:
    """A key that the server trusts."""
    path, line = make_key(tmp_path, "publisher")
    trust_key(settings.instance, line)
    return path


@pytest.fixture
def signed(settings: Settings, key: Path) -> Path:
    source = pack(settings.store / "quick.mar", FILES)
    assert sign_archive(source, key, settings) == "quick/1.0"
    return source


def test_signed_archive_is_taken_while_programs_are_off_and_stays_verified_in_its_place(
    signed: Path, settings: Settings
) -> None:
    label, trusted = verify_archive(signed, settings)
    assert (label, trusted.name if trusted else None) == ("quick/1.0", "publisher")
    folder = ModelFolder(settings.models / "quick/1.0")
    with open_source(signed, settings) as unpacked:
        shutil.copytree(unpacked, folder.path)
    (folder.path / ".registered").write_text("token quick/1.0")
    require_trust(folder.path, folder.name, folder.version, settings)
    (folder.path / "other.py").write_text("")
    with pytest.raises(SignatureError, match=r"other\.py is not what was signed"):
        require_trust(folder.path, folder.name, folder.version, settings)


def test_signature_is_of_the_files_however_they_are_packed(signed: Path, settings: Settings) -> None:
    inside = pack(
        settings.store / "inside.mar",
        FILES | {"signature.json": (signed.parent / "quick.mar.signature.json").read_text()},
    )
    assert verify_archive(inside, settings)[1] is not None
    with open_source(inside, settings):
        pass
    folder = settings.store / "folder"
    with zipfile.ZipFile(inside) as archive:
        archive.extractall(folder)
    assert verify_archive(folder, settings)[1] is not None


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"quick.py": "import os\n"}, "quick.py is not what was signed"),
        ({"evil.py": "import os\n"}, "evil.py is not what was signed"),
        (
            {"MAR-INF/MANIFEST.json": FILES["MAR-INF/MANIFEST.json"].replace("quick", "other", 1)},
            "the signature is of another name",
        ),
        ({"MAR-INF/MANIFEST.json": FILES["MAR-INF/MANIFEST.json"].replace("1.0", "2.0")}, "of another version"),
    ],
)
def test_archive_that_was_changed_is_refused_also_where_every_program_is_trusted(
    signed: Path, settings: Settings, files: dict[str, str], reason: str
) -> None:
    pack(signed, FILES | files)
    for programs in ("off", "all"):
        allowing = Settings(models=settings.models, store=settings.store, instance=settings.instance, programs=programs)
        with pytest.raises(ModelFolderError, match=reason), open_source(signed, allowing):
            pass
    assert list(settings.models.iterdir()) == []


def test_archive_without_a_signature_or_of_an_unknown_key_is_refused(
    signed: Path, settings: Settings, tmp_path: Path
) -> None:
    unsigned = pack(settings.store / "unsigned.mar", FILES)
    assert verify_archive(unsigned, settings) == ("quick/1.0", None)
    with pytest.raises(SignatureError, match="SCANCER_PROGRAMS=all"), open_source(unsigned, settings):
        pass
    stranger, _ = make_key(tmp_path, "stranger")
    sign_archive(signed, stranger, settings)
    with pytest.raises(SignatureError, match="not trusted here"), open_source(signed, settings):
        pass


def test_what_is_no_archive_cannot_be_signed_as_one(settings: Settings, key: Path) -> None:
    (settings.store / "notes.txt").write_text("notes")
    with pytest.raises(ModelFolderError, match="no archive of TorchServe's"):
        sign_archive(settings.store / "notes.txt", key, settings)


def test_archive_among_the_models_is_signed_in_its_place(settings: Settings, key: Path) -> None:
    folder = ModelFolder(settings.models / "quick/1.0")
    for name, text in FILES.items():
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(SignatureError, match="SCANCER_PROGRAMS=all"):
        require_trust(folder.path, folder.name, folder.version, settings)
    sign_folder(folder, key)
    assert verify_folder(folder, settings.instance) is not None
    require_trust(folder.path, folder.name, folder.version, settings)
