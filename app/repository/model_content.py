"""Lists and hashes what a model folder holds.

Names that begin with a dot are no part of a model, in any place of its path. The server keeps its own files under
such names, and other systems leave theirs, such as `.DS_Store`.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from app.engines.compiled.compile_report import COMPILED_FOLDER, hash_ir
from app.engines.compiled.int8_report import INT8_FOLDER
from app.errors import IntegrityError
from app.manifest.model_specs import FRAMEWORKS
from app.processes.plain_files import hash_files


def is_hidden(name: str) -> bool:
    """Whether a path, relative to the model folder and with slashes, is no part of the model."""
    return any(part.startswith(".") for part in name.split("/"))


def list_content(folder: Path) -> list[Path]:
    """Return every entry of a model folder that is no folder, by name; links, pipes and devices are among them."""
    entries = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return [
        path
        for name, path in sorted(entries.items())
        if not is_hidden(name) and (path.is_symlink() or not path.is_dir())
    ]


def copy_content(folder: Path, target: Path) -> None:
    """Copy a model folder to the new folder `target`. Raises `IntegrityError` for a link or device, or `OSError`."""
    target.mkdir()
    for path in list_content(folder):
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(f"{folder.name} holds a link, a pipe or a device; only plain files are allowed")
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def list_artifact(path: Path, framework: str) -> list[Path]:
    """Return the files of the artifact at `path`, by name: the file and its companion, or all files of a folder.

    Raises `IntegrityError`: it is missing, or anything of it is a link or no plain file.
    """
    is_folder = path.is_dir() and not path.is_symlink()
    members = list_content(path) if is_folder else [path, *list_companions(path, framework)]
    if not members or any(member.is_symlink() or not member.is_file() for member in members):
        raise IntegrityError(f"{path.name} is missing, or is not a plain file")
    return members


def list_companions(path: Path, framework: str) -> list[Path]:
    """The second file of an artifact, if it is there: an ONNX model's weights."""
    beside = (path.with_name(f"{path.name}{suffix}") for suffix in FRAMEWORKS[framework].companions)
    return [each for each in beside if each.exists() or each.is_symlink()]


def hash_artifact(path: Path, framework: str) -> str:
    """SHA-256 of an artifact, in hex: of its bytes, then of its companion's; of a folder that of its list of hashes.

    That list is what `sha256sum` prints for the files by name. Raises `IntegrityError` or `OSError`.
    """
    members = list_artifact(path, framework)
    if not path.is_dir():
        return hash_files(*members)
    lines = [f"{hash_files(member)}  {member.relative_to(path).as_posix()}\n" for member in members]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_part(path: Path, framework: str | None) -> str:
    """SHA-256 of a file, an artifact of the `framework` or the IR in a compiled folder, also through a link.

    Empty for what is not there, or cannot be read.
    """
    try:
        if framework is None:
            return hash_files(path)
        if path.name in (COMPILED_FOLDER, INT8_FOLDER):
            return hash_ir(path)
        return hash_artifact(path, framework) if path.is_dir() else hash_files(path, *list_companions(path, framework))
    except (IntegrityError, OSError):
        return ""


def find_changed(folder: Path, framework: str | None, content: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names in `content` whose parts of the folder have other hashes now, see `hash_part`."""
    return tuple(name for name, sha256 in content.items() if hash_part(folder / name, framework) != sha256)
