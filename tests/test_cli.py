"""The commands, run as an operator runs them: in this process, except where the process itself is the fact."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flask.cli import FlaskGroup
from werkzeug.security import check_password_hash, generate_password_hash

from app import create_app
from app.api.login.authenticator import Authenticator
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.config.settings_document import describe_settings
from app.users import UsersFile
from tests.conftest import find_first_versions
from tests.handlers.archives import make_archive, make_tiny
from tests.registry.loading import add_version

pytestmark = pytest.mark.slow  # many commands start processes of their own


def flask(*arguments: str, text: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process; what it does not expect is raised. pytest keeps what is logged."""
    chosen = Settings.from_env(make_environment(settings))
    commands = FlaskGroup(create_app=lambda: create_app(chosen))
    done = CliRunner().invoke(commands, arguments, input=text, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def flask_process(*arguments: str, text: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does in the project's folder, where `flask` finds `wsgi.py`."""
    return run(["flask", *arguments], text, settings)


def run(module: list[str], text: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, "-m", *module], make_environment(settings)
    return subprocess.run(
        command, cwd=PROJECT_ROOT, env=environment, input=text, capture_output=True, text=True, check=False
    )


def make_environment(settings: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **{f"SCANCER_{name.upper()}": value for name, value in settings.items()}}


def test_user_is_added_listed_changed_and_removed(tmp_path: Path) -> None:
    where = {"instance": str(tmp_path)}
    done = flask_process("users", "add", "ada", "--password-stdin", text="a good password\n", **where)
    assert (done.returncode, done.stdout, done.stderr) == (0, "added ada (predict)\n", "")
    users = tmp_path / "users"
    name, role, password_hash = users.read_text().strip().split(":", 2)
    assert (name, role) == ("ada", "predict")
    assert password_hash.startswith("scrypt:")
    assert check_password_hash(password_hash, "a good password")
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    done = flask("users", "add", "ada", "--role", "manage", "--password-stdin", text="another password\n", **where)
    assert done.stdout == "changed ada (manage)\n"
    assert flask("users", "list", **where).stdout == "ada\tmanage\n"
    assert flask("users", "remove", "ada", **where).stdout == "removed ada\n"
    assert users.read_text() == ""
    done = flask("users", "remove", "ada", **where)
    assert (done.returncode, done.stderr) == (1, "Error: there is no user ada\n")


def test_password_with_control_characters_or_none_is_refused(tmp_path: Path) -> None:
    for password in ("", "tab\tinside", "escape\x1binside"):
        done = flask("users", "add", "ada", "--password-stdin", text=password + "\n", instance=str(tmp_path))
        assert done.returncode == 1
        assert "control characters" in done.stderr
    assert not (tmp_path / "users").exists()


def test_name_with_a_colon_is_refused(tmp_path: Path) -> None:
    done = flask("users", "add", "a:b", "--password-stdin", text="a good password\n", instance=str(tmp_path))
    assert (done.returncode, "a name is" in done.stderr) == (1, True)


def test_models_are_listed_checked_and_their_cards_printed() -> None:
    listed = flask("models", "list").stdout.splitlines()
    assert [line.split("\t")[:3] for line in listed] == [
        ["isic-classification", "1.0", "keras"],
        ["isic-classification", "1.1", "keras"],
        ["pcam-classification", "1.0", "torch"],
        ["pcam-classification", "1.1", "torch"],
    ]
    checked = flask("models", "check")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("ok ") == 4
    card = flask("models", "card", "pcam-classification/1.1").stdout
    assert card == (PROJECT_ROOT / "models/pcam-classification/1.1/MODEL_CARD.md").read_text()


def test_archives_are_listed_as_what_they_are(tmp_path: Path) -> None:
    model = {"modelName": "tabby", "modelVersion": "1.0", "handler": "image_classifier"}
    for name, document in (("cats", {"runtime": "python", "model": model}), ("dogs", {})):
        (tmp_path / name / "1.0/MAR-INF").mkdir(parents=True)
        (tmp_path / name / "1.0/MAR-INF/MANIFEST.json").write_text(json.dumps(document))
    listed = flask("models", "list", models=str(tmp_path)).stdout.splitlines()
    assert listed[0] == "cats\t1.0\tarchive\thandler image_classifier"
    assert listed[1].startswith("dogs\t1.0\tunusable: MAR-INF/MANIFEST.json must name modelName")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[str]]:
    """The settings of a repository of a model (not compiled) and three archives, and what `models compile` printed."""
    root = tmp_path_factory.mktemp("mixed")
    models, broken = root / "models", {"model.py": b"raise KeyError('no network')", "weights.pth": b"x"}
    shutil.copytree(find_first_versions() / "pcam-classification", models / "pcam-classification")
    shutil.rmtree(models / "pcam-classification/1.0/compiled")
    make_tiny(models, "tiny")
    make_archive(models, "own", "own.py", {"own.py": "def handle(data, context): return data"})
    make_archive(models, "broken", "image_classifier", {**broken}, model_file="model.py", serialized_file="weights.pth")
    where = {"models": str(models), "instance": str(root), "programs": "all"}
    done = flask("models", "compile", **where)
    assert done.returncode == 0, done.stderr
    return where, [line for line in done.stdout.splitlines() if not line.startswith("compiling ")]


def test_models_and_archives_are_compiled_or_passed_over_with_why_their_handlers_answer(
    mixed: tuple[dict[str, str], list[str]],
) -> None:
    _, lines = mixed
    assert lines[:2] == [
        "ok broken/1.0: passed over, its handler answers: KeyError: 'no network'",
        "ok own/1.0: passed over, its handler answers: its handler is not image_classifier",
    ]
    for line, name, images in zip(lines[2:], ("pcam-classification", "tiny"), (32 + 3, 16), strict=True):
        assert re.fullmatch(
            rf"ok {name}/1\.0: largest probability difference [0-9.]+e-0\d over {images} images \(torch 2.*\)", line
        ), line


def test_compiled_models_and_archives_are_checked_as_far_as_they_can_be(
    mixed: tuple[dict[str, str], list[str]], tmp_path: Path
) -> None:
    where, _ = mixed
    checked = flask("models", "check", **where)
    assert (checked.returncode, checked.stderr) == (0, "")
    lines = checked.stdout.splitlines()
    assert lines[:2] == [
        "ok broken/1.0: an archive that is not compiled: 'flask models compile broken' tries to",
        "ok own/1.0: an archive that its handler answers: its handler is not image_classifier",
    ]
    assert lines[2].startswith("ok pcam-classification/1.0: examples within ")
    assert lines[3].startswith("ok tiny/1.0: an archive whose compiled model is within ")

    shutil.copytree(Path(where["models"]) / "tiny", tmp_path / "tiny")
    with (tmp_path / "tiny/1.0/.compiled/model.bin").open("ab") as file:
        file.write(b"x")
    done = flask("models", "check", **{**where, "models": str(tmp_path)})
    reason = "the compiled model was changed after it was made"
    assert (done.returncode, done.stderr) == (1, f"FAILED tiny/1.0: {reason}\n")


def test_archive_that_may_not_be_run_or_has_no_such_thing_fails_with_its_reason(
    mixed: tuple[dict[str, str], list[str]], tmp_path: Path
) -> None:
    where, _ = mixed
    for command in ("check", "compile"):
        done = flask("models", command, "own", **{**where, "programs": "off"})
        assert (done.returncode, "FAILED own/1.0: it brings a program of its own" in done.stderr) == (1, True)
    for arguments in (["pack"], ["compile", "--int8", str(tmp_path)]):
        done = flask("models", *arguments, "tiny", **where)
        assert (done.returncode, "tiny/1.0: it is a model archive" in done.stderr) == (1, True)
    assert flask("models", "set-default", "tiny", "1.0", **where).stdout == "the default of tiny is 1.0\n"


def test_models_in_folders_of_another_name_are_named_with_the_rule(tmp_path: Path) -> None:
    for folder in ("resnet18/1.0", "my model/1.0", "no-version", "good-name/1.0 beta", ".hidden/1.0"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.toml").write_text("")
    (tmp_path / "lost+found").mkdir(mode=0)
    done = flask_process("models", "list", models=str(tmp_path))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"Error: no models in {tmp_path}")
    for folder in ("resnet18/1.0", "my model/1.0", "no-version", "good-name/1.0 beta"):
        assert done.stderr.count(f"{tmp_path / folder} is passed over: a model's folder is NAME/VERSION") == 1
    assert ".hidden" not in done.stderr


def test_check_names_a_changed_artifact_and_fails(tmp_path: Path) -> None:
    shutil.copytree(find_first_versions() / "pcam-classification", tmp_path / "pcam-classification")
    artifact = tmp_path / "pcam-classification/1.0/model.safetensors"
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"\x00\x00")
    done = flask("models", "check", models=str(tmp_path))
    assert done.returncode == 1
    assert "FAILED pcam-classification/1.0: model.safetensors is not the file" in done.stderr


def test_check_names_an_example_whose_score_moved(tmp_path: Path) -> None:
    shutil.copytree(find_first_versions() / "pcam-classification", tmp_path / "pcam-classification")
    examples = tmp_path / "pcam-classification/1.0/examples"
    shutil.copy(examples / "synthetic-normal.png", examples / "synthetic-metastatic.png")
    done = flask("models", "check", models=str(tmp_path))
    assert done.returncode == 1
    assert "examples/synthetic-metastatic.png: a probability strays by" in done.stderr


def test_unknown_model_is_named(tmp_path: Path) -> None:
    for command in ("check", "compile", "card"):
        done = flask("models", command, "nope")
        assert done.returncode == 1
        assert "no model nope" in done.stderr


def test_settings_are_printed_as_a_table() -> None:
    assert flask("settings").stdout == describe_settings()


def test_command_that_runs_no_model_loads_none_and_imports_no_framework(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = flask_process("users", "list", models=str(tmp_path / "absent"), instance=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")
    imports, others = (
        [line for line in done.stderr.splitlines() if line.startswith("import time:") is is_import]
        for is_import in (True, False)
    )
    assert others == []
    imported = {line.split("|")[-1].strip() for line in imports}
    assert "app.compiling.folder_compiler" in imported
    assert not imported & {"openvino", "torch", "tensorflow", "onnxruntime", "nncf"}


def test_bad_setting_stops_a_command_with_its_name(tmp_path: Path) -> None:
    done = flask_process("users", "list", workers="0")
    told = "Error: SCANCER_WORKERS='0' is not allowed: it must be a whole number from 1 to 256.\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_every_entry_stops_at_a_variable_that_is_no_setting_or_is_one_no_longer() -> None:
    for name, told in (
        ("thread", "SCANCER_THREAD is not a setting; did you mean SCANCER_THREADS?"),
        ("initial_workers", "SCANCER_INITIAL_WORKERS is gone: each registration says it, as in 'POST /models?url="),
    ):
        command, server = flask_process("users", "list", **{name: "1"}), run(["gunicorn", "wsgi:app"], "", {name: "1"})
        assert command.stderr.startswith(f"Error: {told}")
        assert server.stderr.startswith(f"scancer: {told}")
        assert (command.returncode, server.returncode) == (1, 1)
        assert "Traceback" not in command.stderr + server.stderr


def test_new_password_is_long_enough_and_a_shorter_one_that_exists_still_counts(tmp_path: Path) -> None:
    for password in ("short", "eleven char"):
        done = flask("users", "add", "ada", "--password-stdin", text=password + "\n", instance=str(tmp_path))
        told = "Error: a password has 12 to 1024 characters and no control characters; "
        assert (done.returncode, done.stderr) == (1, f"{told}this one has {len(password)}\n")
    assert not (tmp_path / "users").exists()
    (tmp_path / "users").write_text(f"bob:predict:{generate_password_hash('short', 'scrypt:512:8:1')}\n")
    done = flask("users", "add", "ada", "--password-stdin", text="twelve chars\n", instance=str(tmp_path))
    assert done.stdout == "added ada (predict)\n"
    assert Authenticator(UsersFile(tmp_path)).verify("bob", "short") is not None


def test_model_is_packed_signed_trusted_and_added_elsewhere(tmp_path: Path) -> None:
    shutil.copytree(find_first_versions() / "pcam-classification", tmp_path / "here/pcam-classification")
    (tmp_path / "there").mkdir()
    here = {"models": str(tmp_path / "here"), "instance": str(tmp_path)}
    there = {"models": str(tmp_path / "there"), "instance": str(tmp_path)}
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (tmp_path / "key.pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" me\n")

    done = flask("models", "verify", "pcam-classification", **here)
    assert (done.returncode, done.stderr) == (1, "Error: pcam-classification/1.0 is not signed\n")
    done = flask("models", "sign", "pcam-classification", "--key", str(tmp_path / "key"), **here)
    assert done.stdout == "signed pcam-classification/1.0\n"
    done = flask("models", "pack", "pcam-classification/1.0", "--output", str(tmp_path / "a.zip"), **here)
    assert done.stdout.startswith(f"packed pcam-classification/1.0 as {tmp_path / 'a.zip'}: ")

    done = flask("models", "add", str(tmp_path / "a.zip"), **there)
    assert done.returncode == 1
    assert "a.zip is not added: the model is signed by a key that is not trusted here" in done.stderr
    assert flask("models", "trust", str(tmp_path / "key.pub"), **there).stdout.startswith("me\tAAAA")
    done = flask("models", "add", str(tmp_path / "a.zip"), **there)
    assert (done.stdout, done.stderr) == ("ok pcam-classification/1.0: added and tried out\n", "")
    done = flask("models", "verify", "pcam-classification", **there)
    assert done.stdout == "ok pcam-classification/1.0: signed by me\n"
    done = flask("models", "add", str(tmp_path / "a.zip"), **there)
    assert (done.returncode, "pcam-classification/1.0 exists already" in done.stderr) == (1, True)


@pytest.mark.slow
def test_default_changes_only_when_somebody_says_so_and_a_removed_version_comes_back(tmp_path: Path) -> None:
    name, source = "pcam-classification", tmp_path / "here/pcam-classification/1.0"
    shutil.copytree(PROJECT_ROOT / "models/pcam-classification/1.0", source)
    for version in ("1.1", "1.2"):
        add_version(source, version)
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (tmp_path / "key.pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" me\n")
    (tmp_path / "there").mkdir()
    here = {"models": str(tmp_path / "here"), "instance": str(tmp_path)}
    there = {"models": str(tmp_path / "there"), "instance": str(tmp_path)}
    for version in ("1.0", "1.1", "1.2"):  # what is signed is not compiled anew
        assert flask("models", "sign", f"{name}/{version}", "--key", str(tmp_path / "key"), **here).returncode == 0
    assert flask("models", "trust", str(tmp_path / "key.pub"), **there).returncode == 0

    def add(folder: Path, *options: str) -> list[str]:
        done = flask("models", "add", str(folder), *options, **there)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    stays = "{} stays the default; 'flask models set-default pcam-classification {}' changes it"
    assert add(source) == [f"ok {name}/1.0: added and tried out"]
    assert add(source.parent / "1.1") == [f"ok {name}/1.1: added and tried out", stays.format(f"{name}/1.0", "1.1")]
    assert add(source.parent / "1.2", "--default") == [f"ok {name}/1.2: added and tried out"]
    folder = tmp_path / "there/pcam-classification/1.1"
    told = f"{folder} stays; 'flask models add {folder}' serves it again"
    assert flask("models", "remove", f"{name}/1.1", **there).stdout.splitlines() == [f"removed {name}/1.1", told]
    done = flask("models", "add", str(source.parent / "1.1"), **there)
    assert (done.returncode, f"'flask models add {folder}' serves a removed one again" in done.stderr) == (
        1,
        True,
    )
    assert add(folder) == [f"ok {name}/1.1: served again", stays.format(f"{name}/1.2", "1.1")]
    done = flask("models", "add", str(folder), **there)
    assert (done.returncode, "Model version 1.1 is already registered" in done.stderr) == (1, True)
    assert flask("models", "remove", f"{name}/1.1", **there).returncode == 0
    shutil.rmtree(folder)  # and what is added in its place is served
    assert add(source.parent / "1.1") == [f"ok {name}/1.1: added and tried out", stays.format(f"{name}/1.2", "1.1")]
    assert "is already registered" in flask("models", "add", str(folder), **there).stderr


def test_file_that_is_no_key_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text("ssh-rsa AAAA")
    done = flask("models", "trust", str(tmp_path / "key.pub"), instance=str(tmp_path))
    assert (done.returncode, "no public key of the form" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == [tmp_path / "key.pub"]


def test_model_is_added_from_a_url_that_is_allowed_alone(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    there = {"models": str(tmp_path / "models"), "instance": str(tmp_path / "instance")}
    done = flask("models", "add", "http://127.0.0.1:1/m.zip", **there)
    assert done.returncode == 1
    assert "does not match any allowed URL(s)" in done.stderr
    allowed = {"allowed_urls": r"http://127\.0\.0\.1:1/.*"}
    done = flask("models", "add", "http://127.0.0.1:1/m.zip", **there, **allowed)
    assert "SCANCER_PRIVATE_HOSTS=127.0.0.1" in done.stderr
    done = flask("models", "add", "http://127.0.0.1:1/m.zip", **there, **allowed, private_hosts="127.0.0.1")
    assert "(its host cannot be reached)" in done.stderr
    assert flask("models", "add", str(tmp_path / "absent"), **there).returncode == 2
