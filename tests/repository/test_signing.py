"""Signatures: what they hold, and that nothing signed can be changed, renamed or replayed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.errors import CompiledModelError, SignatureError
from app.exchange.model_importer import add_model
from app.exchange.packing import pack_model
from app.repository.model_content import list_content
from app.repository.model_folder import ModelFolder
from app.repository.signing import TRUST_FILE, read_trusted_keys, sign_folder, trust_key, verify_folder


def make_key(folder: Path, name: str) -> tuple[Path, str]:
    """A private key file as ssh-keygen writes it, and the line of its public half."""
    key = Ed25519PrivateKey.generate()
    path = folder / name
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path, f"{key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()} {name}"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key that is trusted in `tmp_path`."""
    path, line = make_key(tmp_path, "publisher")
    trust_key(tmp_path, line)
    return path


@pytest.fixture
def signed(pcam: Path, key: Path) -> ModelFolder:
    folder = ModelFolder(pcam)
    sign_folder(folder, key)
    return folder


def test_signed_folder_is_verified_with_the_name_of_its_key(signed: ModelFolder, tmp_path: Path) -> None:
    verified = verify_folder(signed, tmp_path)
    assert verified is not None
    assert verified.name == "publisher"
    document = json.loads((signed.path / "signature.json").read_text())
    assert document["signed"]["name"] == "pcam-classification"
    assert len(document["signed"]["files"]) == 10


def test_file_that_begins_with_a_dot_is_no_part_of_a_signed_folder(signed: ModelFolder, tmp_path: Path) -> None:
    before = signed.find_examples()
    for name in (".DS_Store", "examples/._synthetic-normal.png", ".compiling-7/model.xml"):
        (signed.path / name).parent.mkdir(exist_ok=True)
        (signed.path / name).write_bytes(b"of another system")
    assert verify_folder(signed, tmp_path) is not None
    assert signed.find_examples() == before
    assert list_content(signed.path) == sorted(
        path for path in signed.path.rglob("[!.]*") if path.is_file() and ".compiling-7" not in path.parts
    )


def test_folder_without_a_signature_is_not_signed(pcam: Path, tmp_path: Path) -> None:
    assert verify_folder(ModelFolder(pcam), tmp_path) is None


def edit_signed(key: str, value: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "signature.json"
        document = json.loads(path.read_text())
        document["signed"][key] = value
        path.write_text(json.dumps(document))

    return edit


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), r"^model\.safetensors is not what was signed"),
        (lambda f: (f / "compiled/model.bin").write_bytes(b"x"), r"^compiled/model\.bin is not what was signed"),
        (lambda f: (f / "compiled/signature.json").touch(), r"^compiled/signature\.json is not what was signed"),
        (lambda f: (f / "MODEL_CARD.md").unlink(), r"^MODEL_CARD\.md is not what was signed"),
        (edit_signed("version", "2.0"), "does not hold"),
        (edit_signed("files", {}), "does not hold"),
        (lambda f: (f / "signature.json").write_text("{}"), "cannot be read"),
        (lambda f: (f / "signature.json").write_text("[" * 100_000), "cannot be read"),
        (lambda f: (f / "signature.json").write_bytes(bytes(2 << 20)), "cannot be read"),
    ],
)
def test_changed_folder_is_refused(signed: ModelFolder, tmp_path: Path, change: object, reason: str) -> None:
    change(signed.path)  # type: ignore[operator]
    with pytest.raises(SignatureError, match=reason):
        verify_folder(signed, tmp_path)


@pytest.mark.parametrize("place, part", [("pcam-classification/2.0", "version"), ("other-classification/1.0", "name")])
def test_signature_is_not_replayed_for_another_name_or_version(
    signed: ModelFolder, tmp_path: Path, place: str, part: str
) -> None:
    copy = tmp_path / "copies" / place
    shutil.copytree(signed.path, copy)
    with pytest.raises(SignatureError, match=f"is of another {part}"):
        verify_folder(ModelFolder(copy), tmp_path)


def test_key_that_is_not_trusted_vouches_for_nothing(pcam: Path, tmp_path: Path) -> None:
    path, _ = make_key(tmp_path, "stranger")
    sign_folder(ModelFolder(pcam), path)
    with pytest.raises(SignatureError, match="not trusted here"):
        verify_folder(ModelFolder(pcam), tmp_path)
    _, other = make_key(tmp_path, "another")
    trust_key(tmp_path, other)
    with pytest.raises(SignatureError, match="not trusted here"):
        verify_folder(ModelFolder(pcam), tmp_path)


def test_signature_under_a_trusted_keys_name_by_another_does_not_hold(signed: ModelFolder, tmp_path: Path) -> None:
    trusted = json.loads((signed.path / "signature.json").read_text())["key"]
    sign_folder(signed, make_key(tmp_path, "stranger")[0])
    document = json.loads((signed.path / "signature.json").read_text())
    (signed.path / "signature.json").write_text(json.dumps({**document, "key": trusted}))
    with pytest.raises(SignatureError, match="does not hold"):
        verify_folder(signed, tmp_path)


def test_model_is_signed_only_when_it_is_compiled(pcam: Path, key: Path) -> None:
    shutil.rmtree(pcam / "compiled")
    with pytest.raises(CompiledModelError, match="not compiled"):
        sign_folder(ModelFolder(pcam), key)


def test_other_keys_do_not_sign(pcam: Path, tmp_path: Path) -> None:
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    for number, data in enumerate((rsa, b"", b"ssh-ed25519 AAAA")):
        path = tmp_path / str(number)
        path.write_bytes(data)
        with pytest.raises(SignatureError, match="no Ed25519 key"):
            sign_folder(ModelFolder(pcam), path)


@pytest.mark.parametrize("line", ["", "ssh-rsa AAAA", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-ed25519 \0"])
def test_line_that_is_no_key_is_not_trusted(tmp_path: Path, line: str) -> None:
    with pytest.raises(SignatureError, match="no public key"):
        trust_key(tmp_path, line)
    assert not (tmp_path / TRUST_FILE).exists()


def test_trust_file_holds_each_key_once_and_no_second_line(tmp_path: Path) -> None:
    lines = [make_key(tmp_path, name)[1] for name in ("one", "two")]
    for line in (*lines, lines[0]):
        trust_key(tmp_path, line)
    assert [key.name for key in read_trusted_keys(tmp_path)] == ["one", "two"]
    with pytest.raises(SignatureError):
        trust_key(tmp_path, f"{lines[0]}\n{make_key(tmp_path, 'hidden')[1]}")
    (tmp_path / TRUST_FILE).write_text("nonsense\n")
    with pytest.raises(SignatureError):
        read_trusted_keys(tmp_path)


def test_signed_model_is_added_as_it_is_where_no_framework_is(
    signed: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_model(signed, tmp_path / "a.zip")
    (tmp_path / "target").mkdir()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = add_model(tmp_path / "a.zip", Settings(models=tmp_path / "target", instance=tmp_path))
    for part in ("compiled/model.bin", "compiled/report.json", "signature.json", "model.toml"):
        assert (folder.path / part).read_bytes() == (signed.path / part).read_bytes()
    assert verify_folder(folder, tmp_path) is not None


def test_signed_model_that_was_changed_is_not_added(signed: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (signed.path / "compiled/model.bin").write_bytes(b"x")
    with pytest.raises(SignatureError, match="not what was signed"):
        add_model(signed.path, Settings(models=tmp_path / "target", instance=tmp_path))
    assert list((tmp_path / "target").iterdir()) == []


def test_library_is_imported_when_it_is_first_used() -> None:
    code = "import sys, app.exchange.model_importer; print('cryptography' in sys.modules)"
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
