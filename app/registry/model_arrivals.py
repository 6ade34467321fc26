"""Brings a model folder to its place among the models, so that it is there whole or not at all.

A folder that the server makes carries a token, and the token is in the state store before the folder is on the disk. A
process that is killed on the way leaves a token that belongs to no version, and `sweep` knows by it what to remove.
"""

import errno
import os
import re
import secrets
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.config.settings import Settings
from app.errors import DiskFullError, InvalidModelError, ModelFolderError, ModelNotFoundError
from app.handlers.handler_archive import ARCHIVE_NAME_PATTERN, is_archive, read_archive
from app.manifest.model_manifest import MANIFEST_FILE, MODEL_NAME_PATTERN, VERSION_PATTERN
from app.repository.model_folder import TOKEN_FILE, ModelFolder
from app.state.store_access import StoreAccess
from app.state.wanted import Key

LOCK_FILE = "registration.lock"
STAGING_PREFIX = ".registering-"
NAME_LINE = re.compile(r"^name[ \t]*=.*$", re.MULTILINE)


def find_lock(settings: Settings) -> Path:
    """The file whose lock is held by whoever brings or removes folders."""
    return settings.instance / LOCK_FILE


def find_source(url: str, store: Path) -> Path | None:
    """Return what `url` names in the store's folder, or None if there is nothing of that name.

    Raises:
        ModelNotFoundError: `url` is empty, or leads elsewhere; a real one is for `remote_source`.
    """
    if not url:
        raise ModelNotFoundError("empty url")
    if ".." in url:
        raise ModelNotFoundError(f"Relative path is not allowed in url: {url}")
    if "\0" in url or url.startswith("/"):
        raise ModelNotFoundError(f"Model not found at: {url}")
    source = store / url
    if not source.exists() or not source.resolve().is_relative_to(store.resolve()):
        return None
    return source


def read_source(source: Path, model_name: str | None) -> Key:
    """Return name and version of the model folder in the store; `model_name` goes before its own.

    Raises:
        InvalidModelError: it is no model folder, or holds links.
    """
    if is_archive(source):
        return read_archive_source(source, model_name)
    if not source.is_dir() or not (source / MANIFEST_FILE).is_file():
        raise InvalidModelError(f"{source.name} is not a model folder: it has no {MANIFEST_FILE}")
    if any(path.is_symlink() for path in source.rglob("*")):
        raise InvalidModelError(f"{source.name} holds a link")
    try:
        document = tomllib.loads((source / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModelError(f"{MANIFEST_FILE} of {source.name} cannot be read") from error
    name, version = model_name or document.get("name"), document.get("version")
    if not isinstance(name, str) or not MODEL_NAME_PATTERN.fullmatch(name):
        raise InvalidModelError("a model's name is words of small letters and digits, joined by dashes")
    if not isinstance(version, str) or not VERSION_PATTERN.fullmatch(version):
        raise InvalidModelError(f"{MANIFEST_FILE} of {source.name} has no version")
    return name, version


def read_archive_source(source: Path, model_name: str | None) -> Key:
    """The same of an unpacked archive of TorchServe's.

    Raises:
        InvalidModelError: its manifest is malformed.
    """
    try:
        model = read_archive(source, "", "").manifest["model"]
    except ModelFolderError as error:
        raise InvalidModelError(error.message) from error
    name, version = model_name or model["modelName"], str(model["modelVersion"])
    if not ARCHIVE_NAME_PATTERN.fullmatch(name) or not VERSION_PATTERN.fullmatch(version):
        raise InvalidModelError("a model's name and version are letters, digits, dots, dashes and underscores")
    return name, version


@dataclass(frozen=True)
class Arrival:
    """A folder on its way to its place."""

    models: Path
    token: str

    @classmethod
    def announce(cls, models: Path, key: Key) -> "Arrival":
        """Choose the token of a folder that is to come."""
        return cls(models, f"{secrets.token_hex(8)} {'/'.join(key)}")

    @property
    def staging(self) -> Path:
        """Where the folder is made, and where it is taken apart."""
        return self.models / (STAGING_PREFIX + self.token.split()[0])

    @property
    def place(self) -> Path:
        """Where it belongs."""
        return self.models / self.token.split()[1]

    def bring(self, source: Path) -> None:
        """Copy a model folder to its place, with the token, and check it on the way.

        Raises:
            InvalidModelError: it cannot be served.
            DiskFullError: the disk is full.
        """
        staged = self.staging / self.token.split()[1]
        with translate_disk_errors():
            shutil.copytree(source, staged, ignore=shutil.ignore_patterns(".*"))
            if not is_archive(staged):
                rename_model(staged / MANIFEST_FILE, staged.parent.name)
            (staged / TOKEN_FILE).write_text(self.token, encoding="ascii")
            self._check(ModelFolder(staged))
            for path in (*staged.rglob("*"), staged):
                synchronize(path)
            self.place.parent.mkdir(exist_ok=True)
            staged.rename(self.place)
            synchronize(self.place.parent)
            shutil.rmtree(self.staging)

    def _check(self, folder: ModelFolder) -> None:
        try:
            if folder.is_archive:
                folder.read_archive()
            else:
                folder.verify_artifact(folder.read_manifest())
        except ModelFolderError as error:
            raise InvalidModelError(error.message) from error

    def remove(self) -> None:
        """Take the folder away, wherever it is."""
        shutil.rmtree(self.staging, ignore_errors=True)
        if ModelFolder(self.place).read_token() == self.token:
            self.place.rename(self.staging)
            shutil.rmtree(self.staging, ignore_errors=True)
        with suppress(OSError):  # other versions, or somebody's files, are in it
            self.place.parent.rmdir()


def rename_model(manifest: Path, name: str) -> None:
    """Have a manifest name its model as its folder does."""
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(NAME_LINE.sub(f'name = "{name}"', text, count=1), encoding="utf-8")


def sweep(settings: Settings, access: StoreAccess) -> None:
    """Remove the folders that no version owns; whoever calls holds the lock, so none of them is on its way.

    Raises:
        StateStoreError: the store cannot be read or changed.
        DiskFullError: the disk is full.
    """
    strays = access.read().strays if access.exists() else frozenset()
    if not strays:
        return
    with translate_disk_errors():
        for token in strays:
            Arrival(settings.models, token).remove()
    with access.open().change() as draft:
        draft.strays -= strays


@contextmanager
def translate_disk_errors() -> Iterator[None]:
    """Turn what the file system says into our errors."""
    try:
        yield
    except (OSError, shutil.Error) as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "[Errno 28]" in str(error):  # shutil.Error lists many
            raise DiskFullError("The disk is full; nothing was registered.") from error
        raise InvalidModelError("The model cannot be copied.") from error


def synchronize(path: Path) -> None:
    """Have a file or folder on the disk before anything relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
