"""The files that an artifact is made of, and the one SHA-256 of them all."""

import hashlib
from pathlib import Path

from app.engines.compile_report import hash_files
from app.errors import IntegrityError
from app.manifest.model_specs import FRAMEWORKS
from app.repository.model_content import list_content


def list_artifact(path: Path, framework: str) -> list[Path]:
    """Return every file of the artifact at `path`, by name: the file and its companion, or all files of a folder.

    Raises:
        IntegrityError: it is missing, or anything of it is a link or no plain file.
    """
    is_folder = path.is_dir() and not path.is_symlink()
    members = list_content(path) if is_folder else [path, *list_companions(path, framework)]
    if not members or any(member.is_symlink() or not member.is_file() for member in members):
        raise IntegrityError(f"{path.name} is missing, or is not a plain file")
    return members


def list_companions(path: Path, framework: str) -> list[Path]:
    """The second file of an artifact, if it is there: an ONNX model's weights."""
    companion = FRAMEWORKS[framework].companion
    beside = path.with_name(f"{path.name}{companion}")
    return [beside] if companion is not None and (beside.exists() or beside.is_symlink()) else []


def hash_artifact(path: Path, framework: str) -> str:
    """SHA-256 of an artifact, in hex: of its bytes, then of its companion's; of a folder that of its list of hashes.

    That list is what `sha256sum` prints for the files by name: a line of hash, two spaces and path each.

    Raises:
        IntegrityError: as `list_artifact`.
        OSError: it cannot be read.
    """
    members = list_artifact(path, framework)
    if not path.is_dir():
        return hash_files(*members)
    lines = [f"{hash_files(member)}  {member.relative_to(path).as_posix()}\n" for member in members]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
