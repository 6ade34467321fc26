"""Lists what a model folder holds. Names that begin with a dot are no part of a model, in any place of its path.

The server keeps its own files under such names, and other systems leave theirs, such as `.DS_Store`. They are neither
signed nor hashed, copied, unpacked or packed.
"""

import shutil
from pathlib import Path

from app.errors import IntegrityError


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
    """Copy a model folder to the new folder `target`.

    Raises:
        IntegrityError: it holds a link, a pipe or a device.
        OSError: it cannot be read or written.
    """
    target.mkdir()
    for path in list_content(folder):
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(f"{folder.name} holds a link, a pipe or a device; only plain files are allowed")
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
