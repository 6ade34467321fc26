"""Signs and verifies TorchServe's archives: the signature is of the files in one, however they are packed.

The signature of a file `model.mar` is `model.mar.signature.json` beside it. A folder, or an archive that brings one,
has it inside as `signature.json`; there an unpacked archive is verified at every start.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.config.settings import Settings
from app.errors import ModelFormatError
from app.exchange.model_format import ModelFormat, identify
from app.exchange.unpacking import find_limits, unpack
from app.handlers.handler_archive import is_archive, read_archive
from app.processes.atomic import write_file
from app.repository.signing import SIGNATURE_FILE, TrustedKey, make_signature, verify_content


def find_signature(source: Path) -> Path:
    """Return where the signature of an archive in `SCANCER_STORE` lies."""
    return source / SIGNATURE_FILE if source.is_dir() else source.with_name(f"{source.name}.{SIGNATURE_FILE}")


def bring_signature(source: Path, folder: Path) -> None:
    """Copy the signature beside an archive into the folder unpacked from it; it replaces one from inside."""
    beside = find_signature(source)
    if source.is_file() and beside.is_file():
        shutil.copyfile(beside, folder / SIGNATURE_FILE)


def sign_archive(source: Path, key: Path, settings: Settings) -> str:
    """Sign an archive; return the name and version in the signature. Raises `ModelFolderError`."""
    with open_archive(source, settings) as (folder, name, version):
        document = make_signature(folder, name, version, key)
    write_file(find_signature(source), document)
    return f"{name}/{version}"


def verify_archive(source: Path, settings: Settings) -> tuple[str, TrustedKey | None]:
    """Verify an archive's signature; return name and version, and the trusted key, or None if it is not signed.

    Raises `ModelFolderError`: it is no archive of TorchServe's, or the signature does not hold.
    """
    with open_archive(source, settings) as (folder, name, version):
        bring_signature(source, folder)
        return f"{name}/{version}", verify_content(folder, name, version, settings.instance)


@contextmanager
def open_archive(source: Path, settings: Settings) -> Iterator[tuple[Path, str, str]]:
    """Give an archive as a folder, with its name and version, and remove what was unpacked; nothing in it is run."""
    with tempfile.TemporaryDirectory() as quarantine:
        folder = source
        if not (source.is_dir() and is_archive(source)):
            if identify(source) is not ModelFormat.MAR:
                raise ModelFormatError(f"{source.name} is no archive of TorchServe's")
            folder = unpack(source, Path(quarantine) / "unpacked", find_limits(settings))
        model = read_archive(folder, "", "").manifest["model"]
        yield folder, str(model["modelName"]), str(model["modelVersion"])
