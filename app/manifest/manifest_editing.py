"""Changes `model.toml` in place: other keys, their order and comments stay as somebody wrote them."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import tomlkit

from app.errors import ManifestError
from app.manifest.model_manifest import MANIFEST_FILE, parse_manifest, read_manifest
from app.processes.atomic import write_file
from app.processes.plain_files import read_plain_text


def edit_manifest(folder: Path, change: Callable[[tomlkit.TOMLDocument], None]) -> None:
    """Have `change` edit the manifest of a version, and write it in one step, or raise `ManifestError`."""
    read_manifest(folder)
    try:
        document = tomlkit.parse(read_plain_text(folder / MANIFEST_FILE))
        change(document)
        text = tomlkit.dumps(document)
        parse_manifest(tomllib.loads(text))
        write_file(folder / MANIFEST_FILE, text)
    except ValueError as error:  # TOML's own errors, and names that are no UTF-8
        raise ManifestError(f"{MANIFEST_FILE} cannot be edited: {error}") from error
    except OSError as error:
        raise ManifestError(f"{MANIFEST_FILE} cannot be written: {error.strerror}") from error
