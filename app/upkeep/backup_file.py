"""The file of a backup: a tar archive whose last member is a manifest with the SHA-256 of every other one.

A file that was cut anywhere has no manifest, so it is no backup.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import ArchiveError, BackupError
from app.exchange.tgz_reader import read_files
from app.handlers.handler_archive import ARCHIVE_NAME_PATTERN
from app.manifest.model_manifest import VERSION_PATTERN
from app.processes.plain_files import open_plain

FORMAT = "scancer-backup-1"
MANIFEST, STATE, SETTINGS, INSTANCE, MODELS = "manifest.json", "state.db", "settings.env", "instance", "models"
KEPT = ("users", "trusted_keys", "evaluations", "reports")
"""What of the instance folder is kept beside the state; the rest is made anew by each server."""
MAX_MEMBERS, MAX_MANIFEST_BYTES, MAX_NAME_BYTES = 1_000_000, 1 << 28, 4096


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes and SHA-256, in hex, of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class BackupManifest:
    """What a backup says of itself.

    Attributes:
        made: when, as ISO 8601 in UTC.
        release: of Scancer API.
        database: the kind that kept the state, such as sqlite or postgresql.
        files: every member but the manifest, by name.
    """

    made: str
    release: str
    database: str
    files: dict[str, FileFacts]
    format: str = FORMAT

    def write(self) -> bytes:
        """The manifest as JSON."""
        return json.dumps(asdict(self), indent=1).encode()

    def list_versions(self) -> list[str]:
        """The models in it, as `name/version`."""
        return sorted({"/".join(name.split("/")[1:3]) for name in self.files if name.startswith(f"{MODELS}/")})


def read_manifest(content: bytes) -> BackupManifest:
    """Read a manifest; raises `BackupError` if it is none, or of a format that this release does not know."""
    try:
        values: dict[str, Any] = json.loads(content)
        if values["format"] != FORMAT:
            raise BackupError(
                f"it has the format {values['format']!r}, and this release knows {FORMAT}: "
                "use the release of Scancer API that wrote it, or a newer one"
            )
        files = {str(name): FileFacts(int(each["size"]), str(each["sha256"])) for name, each in values["files"].items()}
        return BackupManifest(str(values["made"]), str(values["release"]), str(values["database"]), files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackupError("its manifest is damaged") from error


Writer = Callable[[str, Iterator[bytes]], None]
"""Takes a member's name and content; it must read the content to its end."""


def pass_over(_: str, chunks: Iterator[bytes]) -> None:
    """Read a member and keep nothing."""
    deque(chunks, maxlen=0)


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Name the file in errors about its content."""
    try:
        yield
    except (BackupError, ArchiveError) as error:
        raise BackupError(f"{path} is no whole backup: {error.message}") from error


def read_backup(path: Path) -> BackupManifest:
    """Read a backup to its end, and verify all of it; raises as `read_opened`."""
    with open_plain(path) as file:
        return read_opened(path, file)


def read_opened(path: Path, file: BinaryIO, write: Writer = pass_over) -> BackupManifest:
    """Read a backup from its beginning to its end, give each member to `write`, and verify all of it.

    Raises `BackupError` with the first fault, or `OSError`. Members come before the manifest, so what was written is
    sound only once this returns.
    """
    found: dict[str, FileFacts] = {}
    manifest: BackupManifest | None = None
    file.seek(0)
    with name_file(path):
        for raw_name, chunks in read_files(file, MAX_MEMBERS):
            name = decode_name(raw_name)
            if manifest is not None:
                raise BackupError("a file follows the manifest")
            if name == MANIFEST:
                manifest = read_manifest(read_bounded(chunks))
                continue
            check_name(name)
            if name in found:
                raise BackupError(f"it holds {name!a} twice")
            counter = Counter()
            write(name, map(counter.count, chunks))
            found[name] = counter.facts
        if manifest is None:
            raise BackupError("it has no manifest")
        compare(manifest.files, found)
    return manifest


def compare(said: dict[str, FileFacts], found: dict[str, FileFacts]) -> None:
    """Raise `BackupError` unless the members are those that the manifest names."""
    for name in sorted(said.keys() | found.keys()):
        if said.get(name) != found.get(name):
            fault = "lacks" if name not in found else "does not name" if name not in said else "holds another"
            subject = "it" if fault != "does not name" else "its manifest"
            raise BackupError(f"{subject} {fault} {name[:100]!a}")


class Counter:
    """Counts and hashes the bytes of a member that pass."""

    def __init__(self) -> None:
        self._digest, self._size = hashlib.sha256(), 0

    def count(self, chunk: bytes) -> bytes:
        """Count the next bytes, and return them."""
        self._digest.update(chunk)
        self._size += len(chunk)
        return chunk

    @property
    def facts(self) -> FileFacts:
        """Of the bytes so far."""
        return FileFacts(self._size, self._digest.hexdigest())


def read_bounded(chunks: Iterator[bytes]) -> bytes:
    """Return the whole content of a manifest; raises `BackupError` for one that is too large."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > MAX_MANIFEST_BYTES:
            raise BackupError(f"its manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    return bytes(content)


def decode_name(raw: str) -> str:
    """Return a member's name, whose bytes the reader takes for Latin-1; raises `BackupError` if it is no UTF-8."""
    try:
        return raw.encode("latin-1").decode()
    except UnicodeDecodeError as error:
        raise BackupError("a name in it is not UTF-8") from error


def is_plain_name(name: str) -> bool:
    """Whether a name is relative, has no part that leads elsewhere, and fits into a tar's header."""
    parts = name.split("/")
    is_printable = "\0" not in name and "\n" not in name and "\r" not in name
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # bytes that are no text
        return False
    return is_printable and size <= MAX_NAME_BYTES and not {"", ".", ".."} & set(parts)


def check_name(name: str) -> None:
    """Raise `BackupError` unless a member has a place in an installation."""
    parts = name.split("/")
    if is_plain_name(name) and (
        name in (STATE, SETTINGS)
        or (parts[0] == INSTANCE and len(parts) > 1 and parts[1] in KEPT)
        or (
            parts[0] == MODELS
            and len(parts) > 3
            and ARCHIVE_NAME_PATTERN.fullmatch(parts[1])
            and VERSION_PATTERN.fullmatch(parts[2])
        )
    ):
        return
    raise BackupError(f"it holds a name that is not allowed: {name[:60]!a}")
