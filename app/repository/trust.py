"""Which programs may be run here: those that a trusted key has signed, or every one where the operator says so."""

from pathlib import Path

from app.config.settings import Settings
from app.errors import SignatureError
from app.handlers.handler_archive import is_archive
from app.manifest.model_manifest import MANIFEST_FILE, ModelManifest, read_document
from app.manifest.model_specs import FRAMEWORKS
from app.repository.model_folder import ModelFolder
from app.repository.signing import TrustedKey, verify_content, verify_folder

PROGRAMS = {name for name, framework in FRAMEWORKS.items() if framework.is_program}
PROGRAMS_ARE_OFF = (
    "it brings a program of its own, and programs that no trusted key has signed are not run here; "
    "SCANCER_PROGRAMS=all trusts every one"
)


def require_trust(path: Path, name: str, version: str, settings: Settings) -> None:
    """Raise `SignatureError` unless the program in a folder may be run.

    A signature that is there must hold, also where every program is trusted: it is there to be believed.
    """
    refuse_unsigned(verify_content(path, name, version, settings.instance), settings)


def refuse_unsigned(signer: TrustedKey | None, settings: Settings) -> None:
    """Raise `SignatureError` for a program that nobody signed, unless every one is trusted."""
    if signer is None and settings.programs == "off":
        raise SignatureError(PROGRAMS_ARE_OFF)


def require_trusted_source(path: Path, name: str, version: str, settings: Settings) -> None:
    """Raise `SignatureError` if a folder, of wherever and by this name to be, is a program that may not be run."""
    if is_archive(path) or read_document(path / MANIFEST_FILE).get("framework") in PROGRAMS:
        require_trust(path, name, version, settings)


def verify_trusted(folder: ModelFolder, manifest: ModelManifest, settings: Settings) -> TrustedKey | None:
    """Verify the signature of a model folder, and return whose it is; None if there is none.

    Raises:
        SignatureError: it does not hold, or the artifact is a program that may not be run.
    """
    signer = verify_folder(folder, settings.instance)
    if manifest.is_program:
        refuse_unsigned(signer, settings)
    return signer


def require_trusted_artifact(folder: ModelFolder, manifest: ModelManifest, settings: Settings) -> None:
    """Raise `SignatureError` if the artifact is a program that may not be run."""
    if manifest.is_program:
        require_trust(folder.path, folder.name, folder.version, settings)
