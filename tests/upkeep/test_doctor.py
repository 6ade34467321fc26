"""The doctor finds each fault that an operator meets, says what to do, changes nothing and tells no secret."""

import json
import os
import resource
import shutil
import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flask.cli import FlaskGroup

from app import create_app
from app.config.setting_types import Address
from app.config.settings import MIB, Settings
from app.repository.signing import TRUST_FILE
from app.state import schema
from app.state.worker_reports import read_reports
from app.upkeep import machine_checks
from app.upkeep.finding import Finding
from app.upkeep.installation_checks import begin_large, check_installation
from app.upkeep.machine_checks import check_clock, check_machine, check_packages, judge_disk
from tests.conftest import PASSWORD, USER, LiveServer, find_first_versions, find_free_ports, within
from tests.evaluation.tiny_model import write_tiny_model
from tests.state.old_state import write_old_state
from tests.upkeep.installation import TINY, add_users, make_installation

SECRET = "hunter2hunter2"


@pytest.fixture
def sound(tmp_path: Path) -> Settings:
    """An installation without a fault, at ports of its own."""
    settings = make_installation(tmp_path / "sound")
    add_users(settings, PASSWORD, USER)
    inference, management, metrics = (Address("127.0.0.1", port) for port in find_free_ports(3))
    return replace(settings, inference_address=inference, management_address=management, metrics_address=metrics)


def find(findings: Any, subject: str) -> list[tuple[str, str, str]]:
    """Level, text and advice of what is said of a subject."""
    return [(each.level, each.text, each.advice) for each in findings if each.subject == subject]


def test_other_database_is_looked_at_and_left_as_it_is(sound: Settings, tmp_path: Path) -> None:
    file = tmp_path / "empty.db"
    sqlite3.connect(file).close()
    shared = replace(sound, database=f"sqlite:///{file}")
    assert find(check_installation(shared), "users") == [("ok", "1, of which 0 may manage models", "")]
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_advice_names_a_path_as_it_is() -> None:
    assert begin_large("run 'chmod 600 /srv/Scancer/users'") == "Run 'chmod 600 /srv/Scancer/users'"


def test_sound_installation_has_no_fault(sound: Settings) -> None:
    findings = list(check_installation(sound))
    assert [str(each) for each in findings if each.level != "ok"] == []
    assert {each.subject for each in findings} >= {f"model {TINY}/1.0", "users", "database", "secrets", "passwords"}
    assert find(findings, "users") == [("ok", "1, of which 0 may manage models", "")]


def make_root(folder: Path, flags: str, memory: str = "max", quota: str = "max 100000") -> Path:
    group = folder / "sys/fs/cgroup/own"
    group.mkdir(parents=True)
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text("0::/own\n")
    (folder / "proc/cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags} ht\n")
    (group / "memory.max").write_text(memory + "\n")
    (group / "cpu.max").write_text(quota + "\n")
    return folder


@pytest.mark.parametrize(
    "flags, precision, expected",
    [
        ("avx2 avx512f avx512_vnni", "int8", [("ok", "it has AVX-512"), ("ok", "it has VNNI")]),
        ("avx2 avx_vnni", "int8", [("ok", "it has AVX2;"), ("ok", "it has VNNI")]),
        ("avx2", "int8", [("ok", "it has AVX2;"), ("warning", "it lacks VNNI: an INT8 inference takes 0.6 to 0.7")]),
        ("sse4_1", "f32", [("warning", "it lacks AVX2, so"), ("ok", "it lacks VNNI, which only INT8")]),
    ],
)
def test_instructions_of_the_processor_are_told(
    sound: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, precision: str, expected: Any
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    found = find(check_machine(replace(sound, precision=precision), make_root(tmp_path / "r", flags)), "processor")
    assert len(found) == len(expected)
    for (level, text, _), (wanted, begin) in zip(found, expected, strict=True):
        assert (level, text[: len(begin)]) == (wanted, begin)


@pytest.mark.parametrize("memory, level", [("max", "ok"), (str(500 * MIB), "fault"), (str(650 * MIB), "warning")])
def test_memory_of_the_control_group_bounds_workers_and_models(
    sound: Settings, tmp_path: Path, memory: str, level: str
) -> None:
    root = make_root(tmp_path / "r", "avx2", memory)
    ((found, text, _),) = find(check_machine(replace(sound, workers=2), root), "memory")
    assert (found, text.startswith("2 workers with all 2 compiled models may take 580 MiB, ")) == (level, True)


def test_more_workers_than_cores_are_a_warning(sound: Settings, tmp_path: Path) -> None:
    root = make_root(tmp_path / "r", "avx2", quota="100000 100000")
    found = find(check_machine(replace(sound, workers=3), root), "cores")
    assert found == [("warning", "3 workers on 1 cores", found[0][2])]
    assert found[0][2].endswith("SCANCER_WORKERS=1")


def test_few_open_files_are_a_warning(sound: Settings) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        ((level, text, advice),) = find(check_machine(sound), "open files")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (level, "may open 512" in text, "ulimit -n 4096" in advice) == ("warning", True, True)


@pytest.mark.parametrize("answer, level", [(0, "ok"), (5, "warning"), (-1, "ok")])
def test_clock_that_nothing_keeps_right_is_a_warning(monkeypatch: pytest.MonkeyPatch, answer: int, level: str) -> None:
    class Library:
        def adjtimex(self, _: object) -> int:
            return answer

    monkeypatch.setattr(machine_checks.ctypes, "CDLL", lambda _: Library())
    assert check_clock().level == level


@pytest.mark.parametrize("part, level", [(2.0, "fault"), (0.8, "warning"), (0.1, "ok")])
def test_disk_with_little_room_is_told(tmp_path: Path, part: float, level: str) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert (
        judge_disk("x", tmp_path, int(free * 1.5 if level == "warning" else free * part), int(free * part)).level
        == level
    )


def test_packages_that_are_absent_or_others_than_pinned_are_named(tmp_path: Path) -> None:
    pins = tmp_path / "requirements_serve.txt"
    pins.write_text("# a comment\nflask==0.1\nno-such-package==1.0\nclick>=1\nnumpy==0 ; sys_platform == 'plan9'\n")
    found = check_packages(pins)
    assert found.level == "warning"
    assert found.text.endswith("not 0.1; no-such-package is absent, not 1.0")
    assert check_packages(tmp_path / "absent").level == "ok"


def test_port_that_another_program_has_is_a_fault(sound: Settings) -> None:
    with socket.create_server((sound.inference_address.host, sound.inference_address.port)):
        found = find(check_installation(sound), f"address {sound.inference_address}")
    assert [(level, text) for level, text, _ in found] == [("fault", "another program listens there")]
    elsewhere = replace(
        sound, inference_address=Address("192.0.2.1", 8080), management_address=Address("no.such.host", 1)
    )
    findings = list(check_installation(replace(elsewhere, plain_http="anywhere")))
    assert find(findings, "address 192.0.2.1:8080")[0][0] == "fault"
    assert find(findings, "address no.such.host:1")[0][:2] == ("fault", "no such host is known")


@pytest.mark.slow
def test_ports_and_models_of_the_server_itself_are_ok(server: LiveServer) -> None:
    addresses = [Address("127.0.0.1", port) for port in server.ports]
    names = ("inference_address", "management_address", "metrics_address")
    settings = Settings(
        instance=server.instance, models=find_first_versions(), **dict(zip(names, addresses, strict=True))
    )
    ready = ("ok", "its files are sound; READY", "")
    label = "model pcam-classification/1.0"
    assert within(30, lambda: find(check_installation(settings), label) == [ready])  # the second worker is ready too
    findings = list(check_installation(settings))
    own = sum(report.pid == os.getpid() for report in read_reports(server.instance))  # apps of tests in this process
    assert find(findings, "server") == [("ok", f"{2 + own} workers run", "")]
    assert {find(findings, f"address {each}")[0] for each in addresses} == {("ok", "this server listens there", "")}
    assert [str(each) for each in findings if each.level != "ok"] == []


def write_pair(folder: Path, days: int) -> dict[str, Path]:
    """A certificate that ends in so many days, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(400)).not_valid_after(now + timedelta(days, 60))
    folder.mkdir()
    (folder / "c.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "k.pem").touch(0o600)
    (folder / "k.pem").write_bytes(text)
    return {"tls_certificate": folder / "c.pem", "tls_key": folder / "k.pem"}


def test_dates_and_key_of_a_certificate_are_looked_at(sound: Settings, tmp_path: Path) -> None:
    pairs = {days: write_pair(tmp_path / str(days), days) for days in (-2, 5, 300)}
    for days, level in ((-2, "fault"), (5, "warning"), (300, "ok")):
        ((found, text, _),) = find(check_installation(replace(sound, **pairs[days])), "TLS")
        assert (found, "the certificate ends on " in text) == (level, True)
    mixed = replace(sound, tls_certificate=pairs[5]["tls_certificate"], tls_key=pairs[300]["tls_key"])
    ((found, text, _),) = find(check_installation(mixed), "TLS")
    assert (found, "is not the key of" in text) == ("fault", True)


def test_secrets_that_others_may_read_or_change_are_told(sound: Settings) -> None:
    users, keys = sound.instance / "users", sound.instance / TRUST_FILE
    keys.touch(0o644)
    users.chmod(0o644)
    assert ("warning", f"{users} may be read by other users of this machine", f"Run 'chmod 600 {users}'") in find(
        check_installation(sound), "secrets"
    )
    users.chmod(0o622)
    keys.chmod(0o666)
    findings = list(check_installation(sound))
    assert [level for level, text, _ in find(findings, "secrets") if "may be changed by" in text] == ["fault", "fault"]
    assert find(findings, "users")[0][0] == "fault"


def test_public_address_without_tls_is_a_fault(sound: Settings) -> None:
    far = replace(sound, metrics_address=Address("0.0.0.0", sound.metrics_address.port))
    ((level, text, _),) = find(check_installation(far), "passwords")
    assert (level, "There are three ways out" in text) == ("fault", True)


def test_state_is_looked_at_and_left_alone(sound: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sound.instance / "state.db"
    path.unlink()
    write_old_state(path, {})
    with monkeypatch.context() as patched:
        patched.setattr(schema, "READABLE", (schema.SCHEMA_VERSION,))
        assert find(check_installation(sound), "database")[0][0] == "warning"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 0
        connection.execute("PRAGMA user_version = 9")
    ((level, text, _),) = find(check_installation(sound), "database")
    assert (level, "written by a newer version" in text) == ("fault", True)
    url = f"sqlite:///{tmp_path}/other.db"
    assert find(check_installation(replace(sound, database=url)), "database")[0][:2] == (
        "ok",
        f"{tmp_path}/other.db is not there yet: the first start makes it",
    )
    assert not (tmp_path / "other.db").exists()


def test_broken_and_missing_models_are_faults(sound: Settings) -> None:
    (sound.models / TINY / "1.0/model.safetensors").write_bytes(b"other weights")
    shutil.rmtree(sound.models / TINY / "1.1/compiled")
    write_tiny_model(sound.models, "1.2")
    findings = list(check_installation(sound))
    assert find(findings, f"model {TINY}/1.0")[0][1].startswith("model.safetensors is not the file that the manifest")
    assert find(findings, f"model {TINY}/1.1")[0][0] == "fault"
    assert find(findings, f"model {TINY}/1.2") == [("ok", "its files are sound", "")]
    shutil.rmtree(sound.models / TINY)
    ((level, _, advice),) = find(check_installation(sound), "models")
    assert (level, advice) == ("fault", "get_started/add_a_model.md adds one")


def test_folders_that_are_absent_are_told(sound: Settings, tmp_path: Path) -> None:
    absent = replace(sound, models=tmp_path / "none", instance=tmp_path / "new/instance")
    findings = list(check_installation(absent))
    assert find(findings, "SCANCER_MODELS")[0][0] == "fault"
    assert find(findings, "SCANCER_INSTANCE")[0][0] == "ok"
    assert find(check_machine(absent), "memory")[0][0] == "warning"
    assert not (tmp_path / "new").exists()


def run(settings: Settings, *options: str) -> tuple[int, str]:
    commands = FlaskGroup(create_app=lambda: create_app(settings))
    done = CliRunner().invoke(commands, ["doctor", *options], catch_exceptions=False)
    return done.exit_code, done.output


def test_command_ends_with_1_for_a_fault_alone_and_tells_no_secret(sound: Settings) -> None:
    status, text = run(sound)
    assert status == 0
    assert {line[:8].strip() for line in text.splitlines()} <= {"ok", "warning"}
    away = replace(
        sound,
        database=f"postgresql+psycopg://scancer:{SECRET}@127.0.0.1:1/x",
        limits_store=f"redis://:{SECRET}@127.0.0.1:1/0",
    )
    status, text = run(away, "--json")
    findings = [Finding(**each) for each in json.loads(text)]
    ((level, told, _),) = find(findings, "database")
    assert (status, level) == (1, "fault")
    assert "SCANCER_DATABASE cannot be used: " in told
    users = (sound.instance / "users").read_text().split(":")[2].strip()
    assert SECRET not in text
    assert users not in text
