"""Finds the pictures that a person names: files, folders with all that is in them, and patterns."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import PicturesError

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""What a file in a folder must end in to be taken for a picture; a file that is named itself may end in anything."""


@dataclass
class PicturePaths:
    """The pictures found, each once, and how many other files lay in the folders."""

    pictures: list[str] = field(default_factory=list)
    others: int = 0


def find_paths(named: Iterable[str]) -> PicturePaths:
    """Find pictures in the order of `named`, those of a folder or pattern by name; hidden files are passed over.

    A path is relative if it was given so. Raises `PicturesError` if a name leads to nothing.
    """
    found = PicturePaths()
    paths: dict[str, None] = {}
    for name in named:
        for path in expand(name):
            if not Path(path).is_dir():
                paths[path] = None
                continue
            for inner in walk(path):
                if Path(inner).suffix.lower() in ENDINGS:
                    paths[inner] = None
                else:
                    found.others += 1
    found.pictures = list(paths)
    return found


def expand(name: str) -> list[str]:
    """Return the paths that a name means: itself, or those that match it as a pattern; `**` means any folders."""
    if os.path.lexists(name):
        return [str(Path(name))]
    if matches := glob.glob(name, recursive=True):  # noqa: PTH207  # Path.glob takes no absolute pattern
        return sorted(str(Path(match)) for match in matches)
    raise PicturesError(f"{name}: there is no such file or folder, and nothing matches it as a pattern")


def walk(folder: str) -> Iterator[str]:
    """Yield the files below a folder, folders by name; links to folders are not followed, for they may lead round."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (str(Path(root, name)) for name in sorted(files) if not name.startswith("."))
