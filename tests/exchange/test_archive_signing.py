"""Archives that a trusted key has signed run while programs are off; nothing that was changed since does."""

import json
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.cli.signature_commands import find_archive
from app.config.settings import Settings
from app.errors import ModelFolderError, SignatureError
from app.exchange.admission import admit
from app.exchange.archive_signing import find_signature, sign_archive, verify_archive
from app.exchange.model_importer import bring
from app.exchange.quarantine import Quarantine
from app.processes.plain_files import hash_files
from app.registry.archive_loader import require_trust
from app.registry.model_changes import ModelChanges, Wishes
from app.registry.model_follower import ModelFollower
from app.registry.model_registry import ModelRegistry
from app.repository import signing
from app.repository.model_folder import ModelFolder
from app.repository.signing import sign_folder, trust_key, verify_folder
from app.state.store_access import StoreAccess
from tests.conftest import find_first_versions, within
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


@contextmanager
def hold_admitted(source: Path, settings: Settings) -> Iterator[Path]:
    """Have an archive in quarantine for a while, as a server has it that registers it."""
    with Quarantine(settings.models) as quarantine:
        arrival = bring(source, None, quarantine, settings, None)
        admit(arrival, settings)
        yield arrival.folder.path


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
    with hold_admitted(signed, settings) as unpacked:
        shutil.copytree(unpacked, folder.path)
    (folder.path / ".registered").write_text("token quick/1.0")
    require_trust(folder.path, folder.name, folder.version, settings)
    (folder.path / "other.py").write_text("")
    with pytest.raises(SignatureError, match=r"other\.py is not what was signed"):
        require_trust(folder.path, folder.name, folder.version, settings)


HIDDEN = {".DS_Store": "of another system", "sub/.cache/seen.txt": "of a tool", "sub/.hidden": "of an editor"}


@pytest.mark.parametrize("kind", ["archive", "folder"])
@pytest.mark.parametrize("hidden_when_signed", [True, False])
def test_files_that_begin_with_a_dot_are_neither_signed_nor_brought_along(
    settings: Settings, key: Path, kind: str, hidden_when_signed: bool
) -> None:
    files = FILES | {"sub/data.txt": "data"}
    source = pack(settings.store / "quick.mar", files | HIDDEN if hidden_when_signed else files)
    sign_archive(source, key, settings)
    pack(source, files | HIDDEN)
    if kind == "folder":
        with zipfile.ZipFile(source) as archive:
            archive.extractall(settings.store / "quick")
        find_signature(source).rename(settings.store / "quick/signature.json")
        source = settings.store / "quick"
    trusted = verify_archive(source, settings)[1]
    assert trusted is not None
    assert trusted.name == "publisher"
    access = StoreAccess(settings)
    ModelChanges(settings, access).register(source.name, Wishes(workers=0))
    access.close()
    folder = ModelFolder(settings.models / "quick/1.0")
    require_trust(folder.path, folder.name, folder.version, settings)
    brought = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
    assert brought == {*files, "signature.json", ".registered"}


def test_signature_is_of_the_files_however_they_are_packed(signed: Path, settings: Settings) -> None:
    inside = pack(
        settings.store / "inside.mar",
        FILES | {"signature.json": (signed.parent / "quick.mar.signature.json").read_text()},
    )
    assert verify_archive(inside, settings)[1] is not None
    with hold_admitted(inside, settings):
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
        with pytest.raises(ModelFolderError, match=reason), hold_admitted(signed, allowing):
            pass
    assert list(settings.models.iterdir()) == []


def test_archive_without_a_signature_or_of_an_unknown_key_is_refused(
    signed: Path, settings: Settings, tmp_path: Path
) -> None:
    unsigned = pack(settings.store / "unsigned.mar", FILES)
    assert verify_archive(unsigned, settings) == ("quick/1.0", None)
    with pytest.raises(SignatureError, match="SCANCER_PROGRAMS=all"), hold_admitted(unsigned, settings):
        pass
    stranger, _ = make_key(tmp_path, "stranger")
    sign_archive(signed, stranger, settings)
    with pytest.raises(SignatureError, match="not trusted here"), hold_admitted(signed, settings):
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


@pytest.fixture
def slow_hash(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have files called big.bin hashed only once the event is set, as if they held a gigabyte."""
    is_hashed = threading.Event()

    def hash_slowly(*paths: Path) -> str:
        assert paths[0].name != "big.bin" or is_hashed.wait(30)
        return hash_files(*paths)

    monkeypatch.setattr(signing, "hash_files", hash_slowly)
    return is_hashed


@pytest.fixture
def follow(settings: Settings) -> Iterator[Callable[[], ModelRegistry]]:
    """Follow the models of a server."""
    registry = ModelRegistry(settings)
    follower = ModelFollower(settings, registry, StoreAccess(settings))

    def start() -> ModelRegistry:
        follower.start()
        return registry

    yield start
    follower.close()


def put_signed(settings: Settings, key: Path, version: str = "1.0") -> ModelFolder:
    """An archive among the models with a large file, and a program that another one took the place of."""
    folder = ModelFolder(settings.models / "quick" / version)
    manifest = FILES["MAR-INF/MANIFEST.json"].replace("1.0", version)
    for name, text in (FILES | {"MAR-INF/MANIFEST.json": manifest, "big.bin": "big"}).items():
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text(text)
    sign_folder(folder, key)
    (folder.path / "quick.py").write_text("import os\n")
    return folder


def describe(registry: ModelRegistry, name: str = "quick", version: str = "1.0") -> str:
    entry = registry.table.get(name, version)
    return f"{entry.state} {entry.reason}".strip()


def test_changes_are_followed_within_a_second_while_a_large_archive_is_verified(
    settings: Settings, key: Path, slow_hash: threading.Event, follow: Callable[[], ModelRegistry]
) -> None:
    slow_hash.set()
    put_signed(settings, key)
    slow_hash.clear()
    shutil.copytree(find_first_versions() / "pcam-classification", settings.models / "pcam-classification")
    registry, changes = follow(), ModelChanges(settings, StoreAccess(settings))
    try:
        assert describe(registry) == "LOADING its signature is being verified"
        assert describe(registry, "pcam-classification") == "READY"
        changes.scale("pcam-classification", "1.0", 0, 1)
        assert within(1, lambda: describe(registry, "pcam-classification") == "UNAVAILABLE it has no workers")
        changes.scale("pcam-classification", "1.0", 1, 1)
        assert within(1, lambda: describe(registry, "pcam-classification") == "READY")
        assert describe(registry) == "LOADING its signature is being verified"
        slow_hash.set()
        assert within(5, lambda: describe(registry) == "UNAVAILABLE quick.py is not what was signed")
    finally:
        slow_hash.set()


@pytest.mark.slow
def test_verification_that_ends_late_says_nothing_of_what_took_its_place(
    settings: Settings, key: Path, slow_hash: threading.Event, follow: Callable[[], ModelRegistry]
) -> None:
    slow_hash.set()
    folder = put_signed(settings, key)
    slow_hash.clear()
    registry = follow()
    try:
        assert describe(registry) == "LOADING its signature is being verified"
        shutil.rmtree(folder.path)
        assert within(5, lambda: not registry.table.entries())
        folder.path.mkdir()
        (folder.path / "MAR-INF").mkdir()
        (folder.path / "MAR-INF/MANIFEST.json").write_text(FILES["MAR-INF/MANIFEST.json"])
        assert within(5, lambda: bool(registry.table.entries()))
        assert within(5, lambda: describe(registry).startswith("UNAVAILABLE it brings a program of its own"))
    finally:
        slow_hash.set()
    assert within(5, lambda: not any(thread.name == "load-model" for thread in threading.enumerate()))
    assert describe(registry).startswith("UNAVAILABLE it brings a program of its own")


def test_archive_is_signed_by_its_path_too(signed: Path, settings: Settings, tmp_path: Path) -> None:
    moved = signed.rename(tmp_path / "elsewhere.mar")
    assert find_archive(str(moved), settings) == moved
    assert find_archive("elsewhere.mar", settings) is None
