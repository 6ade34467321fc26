"""Brings a PyTorch state dict into the form that a model folder keeps: safetensors, made in a confined process.

Callers use `keep_as_safetensors`: no framework is imported, and no pickle opened, where requests are served.
"""

import re
import sys
from importlib import import_module
from pathlib import Path

from app.config import Settings
from app.engines.compile import require_package
from app.engines.report import hash_files
from app.errors import CompiledModelError, IntegrityError, ManifestError, ScancerError
from app.manifest import FILE_PATTERN, MANIFEST_FILE, read_document
from app.repository.confined_process import run_confined
from app.repository.model_format import ModelFormat, identify

SUFFIX = ".safetensors"
CONVERTED = "converted.tmp"
FILE_LINE = re.compile(r"^([ \t]*file[ \t]*=[ \t]*)([\"'])([^\"'\n]*)\2", re.MULTILINE)
SHA256_LINE = re.compile(r"^[ \t]*sha256[ \t]*=.*\n", re.MULTILINE)


def keep_as_safetensors(folder: Path, settings: Settings) -> None:
    """Convert a folder's artifact if it is a state dict, and say so in its manifest; leave any other folder as it is.

    Raises:
        FrameworkMissingError: PyTorch is not installed here.
        IntegrityError: it is not the file that the manifest names, or holds more than tensors.
        ManifestError: the manifest is not written so that the new name can be put into it.
    """
    document = read_document(folder / MANIFEST_FILE)
    artifact = document.get("artifact")
    name = artifact.get("file") if isinstance(artifact, dict) else None
    if document.get("framework") != "torch" or not isinstance(name, str) or not FILE_PATTERN.fullmatch(name):
        return  # parse_manifest will say what is wrong, if anything is
    source, target = folder / name, folder / Path(name).with_suffix(SUFFIX)
    if not source.is_file() or identify(source) is not ModelFormat.STATE_DICT:
        return
    assert isinstance(artifact, dict), "it has a file"
    if "sha256" in artifact and artifact["sha256"] != hash_files(source):
        raise IntegrityError(f"{name} is not the file that the manifest's sha256 names")
    require_package("torch")
    run_converter(source, folder / CONVERTED, settings)
    source.unlink()
    (folder / CONVERTED).rename(target)
    rename_in_manifest(folder / MANIFEST_FILE, name, target.name)


def run_converter(source: Path, target: Path, settings: Settings) -> None:
    """Run this module in a confined process; raises `IntegrityError` with its reason if it fails."""
    arguments = [str(source.resolve()), str(target.resolve())]
    try:
        run_confined("app.repository.weights_converter", arguments, settings, settings.compile_timeout_s)
    except CompiledModelError as error:
        raise IntegrityError(error.message) from error


def rename_in_manifest(path: Path, old: str, new: str) -> None:
    """Put another file's name into a manifest, and take out the SHA-256 of the old one."""
    text = path.read_text(encoding="utf-8")
    lines = [line for line in FILE_LINE.finditer(text) if line[3] == old]
    reason = f'{MANIFEST_FILE}: artifact.file must stand on a line of its own, as file = "{old}"'
    if len(lines) != 1:
        raise ManifestError(reason)
    (line,) = lines
    text = f'{text[: line.start()]}{line[1]}"{new}"{text[line.end() :]}'
    path.write_text(SHA256_LINE.sub("", text), encoding="utf-8")
    artifact = read_document(path).get("artifact", {})
    if artifact.get("file") != new or "sha256" in artifact:  # the line was another table's, or part of a text
        raise ManifestError(reason)


def main() -> int:
    """Convert the state dict that the command line names into the file named after it."""
    try:
        import_module("app.engines.torch_weights").convert_state_dict(Path(sys.argv[1]), Path(sys.argv[2]))
    except ScancerError as error:
        print(error.message.replace("\n", " "), file=sys.stderr)
        return 1
    return 0
