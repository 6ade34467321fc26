"""The audit trail: it grows and takes no change, waits for a database that is away, and holds no secret."""

import csv
import io
import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.api.request.services import EXTENSION, Services
from app.cli.audit_command import print_audit
from app.cli.user_commands import users_commands
from app.config.settings import Settings
from app.errors import StateStoreError
from app.logs import JSONFormatter
from app.processes.shared_table import COUNTS, FAILURES, SIGN_INS
from app.state.people import audit_trail
from app.state.people.audit_trail import AuditEntry, AuditTrail
from app.state.state_store import StateStore
from app.state.store_access import STATE_FILE, StoreAccess
from app.users import UsersFile
from tests.conftest import PASSWORD, basic, find_first_versions, within

PATH = "/models/pcam-classification"
HOME = {"REMOTE_ADDR": "192.0.2.7"}


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[AuditTrail]:
    access = StoreAccess(Settings(instance=tmp_path))
    yield AuditTrail(access)
    access.close()


def tell(trail: AuditTrail, actor: str | None = None) -> list[tuple[str, str, str, str]]:
    return [(each.actor, each.action, each.subject, each.client) for each in trail.read(actor=actor)]


CHANGES = (
    "UPDATE scancer_audit SET actor = 'nobody'",
    "DELETE FROM scancer_audit",
    "DELETE FROM scancer_audit WHERE id = '{id}'",
    "INSERT OR REPLACE INTO scancer_audit SELECT id, at_ms, 'nobody', action, subject, client FROM scancer_audit",
)


@pytest.mark.parametrize("change", CHANGES)
def test_entry_of_sqlite_can_be_neither_changed_nor_deleted(trail: AuditTrail, tmp_path: Path, change: str) -> None:
    entry = AuditEntry("ada", "signed in", "password", "192.0.2.7")
    trail.write(entry)
    with closing(sqlite3.connect(tmp_path / STATE_FILE)) as connection:
        with pytest.raises(sqlite3.DatabaseError, match="the audit trail takes no change"):
            connection.execute(change.format(id=entry.id))
        connection.rollback()
    assert trail.read() == [entry]


def test_store_of_the_release_before_gets_the_table(tmp_path: Path) -> None:
    StateStore(tmp_path / STATE_FILE).close()
    with closing(sqlite3.connect(tmp_path / STATE_FILE)) as connection:
        for table in ("scancer_audit", "scancer_users", "scancer_tokens", "scancer_users_mark"):
            connection.execute(f"DROP TABLE {table}")
    access = StoreAccess(Settings(instance=tmp_path))
    AuditTrail(access).write(AuditEntry("ada", "signed in"))
    assert tell(AuditTrail(access)) == [("ada", "signed in", "", "")]
    access.close()


def test_entries_wait_for_a_database_that_is_away(
    trail: AuditTrail, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_trail, "RETRY_S", 0.02)
    write, failed = trail.write, []

    def fail(entry: AuditEntry) -> None:
        failed.append(entry)
        raise StateStoreError("the state store cannot be used: OperationalError")

    monkeypatch.setattr(trail, "write", fail)
    first, second = AuditEntry("ada", "signed in"), AuditEntry("bob", "signed in")
    trail.note(first)
    trail.note(second)
    assert within(5, lambda: len(failed) > 2)
    assert set(failed) == {first}
    monkeypatch.setattr(trail, "write", write)
    assert within(5, lambda: len(trail.read()) == 2)
    trail.close()
    assert {each.id for each in trail.read()} == {first.id, second.id}
    assert [record.getMessage() for record in caplog.records if record.name == "app.audit" and record.levelno > 20] == [
        "the audit trail waits"
    ]


def test_what_waits_is_written_when_the_worker_ends(trail: AuditTrail) -> None:
    for number in range(20):
        trail.note(AuditEntry(f"user-{number}", "signed in"))
    trail.close()
    assert len(trail.read()) == 20


def test_entry_whose_first_try_was_written_without_an_answer_is_written_once(trail: AuditTrail) -> None:
    entry = AuditEntry("ada", "model added", "m\0/1")
    for _ in range(2):
        trail.write(entry)
    assert [each.subject for each in trail.read()] == ["m/1"]  # PostgreSQL would refuse the NUL for ever


def test_long_text_is_cut_to_its_column(trail: AuditTrail) -> None:
    trail.write(AuditEntry("ada", "model registered", "x" * 1000, "y" * 100))
    (entry,) = trail.read()
    assert (len(entry.subject), len(entry.client)) == (400, 64)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Flask]:
    COUNTS.clear()
    FAILURES.clear()
    SIGN_INS.clear()
    UsersFile(tmp_path).add("ada", "predict", PASSWORD)
    UsersFile(tmp_path).add("keeper", "manage", PASSWORD)
    app = create_app(Settings(instance=tmp_path, models=find_first_versions()))
    yield app
    services: Services = app.extensions[EXTENSION]
    services.audit.close()
    services.follower.close()


@pytest.fixture
def client(own: Flask) -> FlaskClient:
    return own.test_client()


def test_sign_ins_changes_and_failures_are_entered_without_secrets(
    own: Flask, client: FlaskClient, pcam_example: bytes, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "app")
    text, token = UsersFile(tmp_path).add_token("ada", 60)
    for _ in range(5):  # each way is entered once
        assert client.get(PATH, headers=basic("ada"), environ_overrides=HOME).status_code == 200
        assert client.get(PATH, headers={"Authorization": f"Bearer {text}"}, environ_overrides=HOME).status_code == 200
    files = {"image": (io.BytesIO(pcam_example), "jane-doe.png")}
    assert client.post("/predictions/pcam-classification", data=files, headers=basic("ada")).status_code == 200
    for _ in range(2):
        client.get(PATH, headers=basic("ada", "a wrong password"), environ_overrides=HOME)
        client.get(PATH, headers=basic("my password by mistake", ""), environ_overrides=HOME)
        client.get(PATH, headers={"Authorization": "Bearer sesame"}, environ_overrides=HOME)
    changed = client.put(f"{PATH}/1.0/set-default", headers=basic("keeper"), environ_overrides=HOME)
    assert changed.status_code == 200, changed.text
    services: Services = own.extensions[EXTENSION]
    services.audit.close()
    told = tell(services.audit)
    assert sorted(told) == sorted(
        [
            ("ada", "signed in", "password", "192.0.2.7"),
            ("ada", "signed in", f"token {token.id}", "192.0.2.7"),
            ("ada", "signed in", "password", "127.0.0.1"),
            ("ada", "sign-in failed", "wrong name or password", "192.0.2.7"),
            ("", "sign-in failed", "wrong name or password", "192.0.2.7"),
            ("", "sign-in failed", "wrong token", "192.0.2.7"),
            ("keeper", "signed in", "password", "192.0.2.7"),
            ("keeper", "default chosen", "pcam-classification/1.0", "192.0.2.7"),
        ]
    )
    lines = [json.loads(JSONFormatter().format(record)) for record in caplog.records]
    logged = [line for line in lines if line.get("event") == "audit"]
    assert [(each["user"], each["action"], each["subject"], each["client"]) for each in logged] == told
    written = json.dumps(lines) + (tmp_path / STATE_FILE).read_bytes().decode("latin-1")
    for secret in (PASSWORD, "a wrong password", "by mistake", text, "sesame", "jane"):
        assert secret not in written


def test_flood_of_failures_does_not_fill_the_trail(own: Flask, client: FlaskClient) -> None:
    for number in range(100):
        client.get(
            PATH, headers={"Authorization": "Bearer x"}, environ_overrides={"REMOTE_ADDR": f"198.51.100.{number}"}
        )
    services: Services = own.extensions[EXTENSION]
    services.audit.close()
    assert len(services.audit.read()) == 30


def test_command_of_the_service_is_entered_with_who_called_it(own: Flask) -> None:
    runner = own.test_cli_runner(env={"SYSTEM_CALLER": "grace"})
    added = runner.invoke(args=["users", "add", "ward", "--password-stdin"], input=f"{PASSWORD}\n")
    assert added.exit_code == 0, added.output
    shown = runner.invoke(args=["audit", "--user", "system:grace"]).output.splitlines()
    assert [line.split("\t")[1:2] + line.split("\t")[3:4] for line in shown] == [["system:grace", "ward (predict)"]]


def test_commands_enter_what_they_change_and_show_it(own: Flask, tmp_path: Path) -> None:
    runner = own.test_cli_runner()
    made = runner.invoke(users_commands, ["add", "eve", "--no-password"])
    assert made.output == "added eve (predict)\n"
    text = runner.invoke(users_commands, ["token", "eve"]).stdout.strip()
    runner.invoke(users_commands, ["remove", "eve"])
    told = runner.invoke(print_audit, []).output
    rows = [line.split("\t") for line in told.splitlines()]
    assert [row[2:3] + row[3].split()[:1] for row in rows] == [
        ["user added", "eve"],
        ["token made", "eve"],
        ["user removed", "eve"],
    ]
    assert {row[1].partition(":")[0] for row in rows} == {"system"}
    assert text not in told
    services: Services = own.extensions[EXTENSION]
    services.audit.write(AuditEntry("ada", "signed in", at_ms=int((time.time() - 7200) * 1000)))
    assert len(runner.invoke(print_audit, ["--since", "1h"]).output.splitlines()) == 3
    assert len(runner.invoke(print_audit, ["--since", "3h", "--user", "ada"]).output.splitlines()) == 1
    assert runner.invoke(print_audit, ["--user", "' OR '1'='1"]).output == ""
    assert runner.invoke(print_audit, ["--since", "never"]).exit_code == 2
    file = tmp_path / "audit.csv"
    assert runner.invoke(print_audit, ["--csv", str(file)]).exit_code == 0
    table = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
    assert table[0] == ["time", "user", "action", "subject", "client"]
    assert len(table) == 5
