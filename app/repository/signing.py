"""Signs and verifies model folders and unpacked archives, and says which programs of theirs may be run here.

The name, the version and every file are signed with a key that `ssh-keygen -t ed25519` made. A `signature.json` holds
the signed content and the public key. A server trusts the keys in `instance/trusted_keys`, one a line.

The cryptographic library is imported at its first use: most servers never sign or verify.
"""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.config.settings import Settings
from app.errors import SignatureError
from app.manifest.model_manifest import ModelManifest
from app.processes.atomic import write_file
from app.processes.exposure import find_exposure
from app.processes.plain_files import hash_files, read_plain_text
from app.repository.model_content import list_content
from app.repository.model_folder import ModelFolder

SIGNATURE_FILE = "signature.json"
TRUST_FILE = "trusted_keys"
FORMAT = "scancer-model-1"
KEY_KIND = "ssh-ed25519"
MAX_SIGNATURE_BYTES = 1 << 20


@dataclass(frozen=True)
class TrustedKey:
    """A line of the trust file: the key as text, and its owner's name for it."""

    text: str
    name: str


def read_trusted_keys(instance: Path) -> list[TrustedKey]:
    """Read the trust file; without one, no key is trusted.

    Raises `SignatureError` for a line that is no Ed25519 key, and for a file that others may change.
    """
    path = instance / TRUST_FILE
    try:
        with path.open(encoding="utf-8") as file:
            is_changeable, advice = find_exposure(os.fstat(file.fileno()).st_mode, path)
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    if is_changeable:
        raise SignatureError(advice)
    return [parse_public_key(line) for line in lines if line.strip() and not line.startswith("#")]


def parse_public_key(line: str) -> TrustedKey:
    """Read `ssh-ed25519 <base64> [name]`; raises `SignatureError` if it is no such line."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    kind, _, rest = line.strip().partition(" ")
    text, _, name = rest.partition(" ")
    if kind == KEY_KIND and line.strip().isprintable():
        try:
            load_ssh_public_key(f"{kind} {text}".encode())
            return TrustedKey(text, name.strip() or text[-8:])
        except (ValueError, UnsupportedAlgorithm):
            pass
    raise SignatureError(f"no public key of the form '{KEY_KIND} AAAA… name' was found")


def trust_key(instance: Path, line: str) -> TrustedKey:
    """Add a public key to the trust file; raises `SignatureError` if it is none."""
    key = parse_public_key(line)
    known = read_trusted_keys(instance)
    if key.text not in [each.text for each in known]:
        instance.mkdir(parents=True, exist_ok=True)
        lines = (f"{KEY_KIND} {each.text} {each.name}\n" for each in (*known, key))
        write_file(instance / TRUST_FILE, "".join(lines))
    return key


def describe_content(path: Path, name: str, version: str) -> dict[str, Any]:
    """Return what a signature is of: format, name, version, and the SHA-256 of every file but the signature's."""
    files = {
        file.relative_to(path).as_posix(): hash_files(file)
        for file in list_content(path)
        if file.is_file() and file != path / SIGNATURE_FILE
    }
    return {"format": FORMAT, "name": name, "version": version, "files": files}


def to_bytes(content: dict[str, Any]) -> bytes:
    """Write the content of a signature as the bytes that are signed."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def sign_folder(folder: ModelFolder, key: Path) -> None:
    """Sign a whole folder with a private key of OpenSSH's form. Raises `ModelFolderError`."""
    if folder.is_archive:
        folder.read_archive()
    else:
        manifest = folder.read_manifest()
        folder.verify_artifact(manifest)
        if manifest.engine != "native":
            folder.read_report(manifest)
    document = make_signature(folder.path, folder.name, folder.version, key)
    write_file(folder.path / SIGNATURE_FILE, document)


def make_signature(path: Path, name: str, version: str, key: Path) -> str:
    """Return the content of a signature's file; raises `SignatureError` if the key cannot be used."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

    try:
        private = load_ssh_private_key(key.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    except OSError as error:
        raise SignatureError(f"{key.name} cannot be read: {error.strerror}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise SignatureError(f"{key.name} is no Ed25519 key without a passphrase, as ssh-keygen writes it")
    content = describe_content(path, name, version)
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode().split(" ")[1]
    signature = base64.b64encode(private.sign(to_bytes(content))).decode()
    return json.dumps({"signed": content, "key": public, "signature": signature}, indent=2) + "\n"


def verify_folder(folder: ModelFolder, instance: Path) -> TrustedKey | None:
    """Verify the signature of a model folder; see `verify_content`."""
    return verify_content(folder.path, folder.name, folder.version, instance)


def verify_content(path: Path, name: str, version: str, instance: Path) -> TrustedKey | None:
    """Verify a folder's signature; return the trusted key that made it, or None if the folder is not signed.

    Raises `SignatureError`: its key is not in the trust file, it is of another content, or it is damaged.
    """
    file = path / SIGNATURE_FILE
    if not file.exists():
        return None
    content, text, signature = read_signature(file)
    keys = [each for each in read_trusted_keys(instance) if each.text == text]
    if not keys:
        raise SignatureError("the model is signed by a key that is not trusted here; see 'models trust'")
    check_signature(text, signature, to_bytes(content))
    actual = describe_content(path, name, version)
    if content == actual:
        return keys[0]
    for part in ("format", "name", "version"):
        if content.get(part) != actual[part]:
            raise SignatureError(f"the signature is of another {part}")
    told, found = set(content["files"].items()), set(actual["files"].items())
    changed = sorted(name for name, _ in told ^ found)
    raise SignatureError(f"{changed[0]} is not what was signed")


def read_signature(path: Path) -> tuple[dict[str, Any], str, bytes]:
    """Read signed content, key and signature; raises `SignatureError` if they are not there."""
    try:
        if path.stat().st_size <= MAX_SIGNATURE_BYTES:
            document = json.loads(read_plain_text(path))
            content, text = document["signed"], document["key"]
            if isinstance(text, str) and isinstance(content["files"], dict):
                return content, text, base64.b64decode(document["signature"], validate=True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise SignatureError(f"{SIGNATURE_FILE} cannot be read")


def check_signature(text: str, signature: bytes, signed: bytes) -> None:
    """Check a signature with a trusted key; raises `SignatureError` if it does not hold."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    public = load_ssh_public_key(f"{KEY_KIND} {text}".encode())
    assert isinstance(public, Ed25519PublicKey), "parse_public_key takes no other"
    try:
        public.verify(signature, signed)
    except InvalidSignature:
        raise SignatureError("the signature does not hold: what was signed has been changed") from None


def require_trust(path: Path, name: str, version: str, settings: Settings) -> None:
    """Raise `SignatureError` unless the program in a folder may be run; a signature must hold in any case."""
    refuse_unsigned(verify_content(path, name, version, settings.instance), settings)


def refuse_unsigned(signer: TrustedKey | None, settings: Settings) -> None:
    """Raise `SignatureError` for a program that nobody signed, unless every one is trusted."""
    if signer is None and settings.programs == "off":
        raise SignatureError(
            "it brings a program of its own, and programs that no trusted key has signed are not run here; "
            "SCANCER_PROGRAMS=all trusts every one"
        )


def verify_trusted(folder: ModelFolder, manifest: ModelManifest, settings: Settings) -> TrustedKey | None:
    """Verify a model folder as `verify_folder`; an artifact that is a program must be one that may be run."""
    signer = verify_folder(folder, settings.instance)
    if manifest.is_program:
        refuse_unsigned(signer, settings)
    return signer


def require_trusted_artifact(folder: ModelFolder, manifest: ModelManifest, settings: Settings) -> None:
    """Raise `SignatureError` if the artifact is a program that may not be run; other signatures are not looked at."""
    if manifest.is_program:
        verify_trusted(folder, manifest, settings)
