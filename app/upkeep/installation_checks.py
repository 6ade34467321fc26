"""What of the installation keeps it from serving: settings, ports, TLS, secrets, database, users, models."""

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil

from app.config.setting_types import OWN_DATABASE, Address
from app.config.settings import Settings
from app.engines.process_engine import runs_natively
from app.errors import ModelFolderError, OlderStateError, SettingsError, StateStoreError, UsersError
from app.processes.exposure import find_exposure
from app.registry.model_entry import State
from app.repository.model_folder import ModelFolder, find_model_folders
from app.repository.signing import TRUST_FILE
from app.server.tls import make_context
from app.state import schema
from app.state.database_check import look_at_database
from app.state.state_file import StateFile, find_file
from app.state.store_access import STATE_FILE
from app.state.wanted import WantedState
from app.state.worker_reports import WorkerReport, read_reports
from app.upkeep.finding import Finding, fault, ok, warning
from app.upkeep.start_checks import find_exposed_secrets, find_plain_http
from app.users import USERS_FILE, User, UsersFile

RENEW_DAYS = 21


def check_installation(settings: Settings) -> Iterator[Finding]:
    """Look at everything of the installation. Nothing is changed, and no secret is told."""
    reports = read_reports(settings.instance)
    yield ok("server", f"{len(reports)} workers run" if reports else "it does not run")
    plain = find_plain_http(settings)
    yield fault("passwords", plain.rstrip("."), "") if plain else ok("passwords", "they travel encrypted, or stay here")
    for address in settings.addresses:
        yield check_address(address, reports)
    yield from check_tls(settings)
    yield from check_secrets(settings)
    yield from check_folders(settings)
    state = check_state(settings)
    yield state
    if state.level == "fault" and settings.database != OWN_DATABASE:
        yield fault("users", "they are in the database", "See above")
    else:
        yield check_users(settings)
    yield from check_models(settings, reports)


def check_address(address: Address, reports: list[WorkerReport]) -> Finding:
    """Try whether a server could listen; it may be ours that does."""
    subject = f"address {address}"
    try:
        family, kind, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(where)
            tried.listen()
    except socket.gaierror:
        return fault(subject, "no such host is known", "Name an address of this machine")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return judge_taken(subject, address, reports)
        advice = {errno.EACCES: "A port below 1024 needs CAP_NET_BIND_SERVICE, which the unit gives"}
        text = os.strerror(error.errno or 0)
        return fault(subject, text, advice.get(error.errno or 0, "Name an address of this machine"))
    if reports:
        return warning(subject, "it is free, although a server runs", "Restart the server to use changed settings")
    return ok(subject, "it is free")


def judge_taken(subject: str, address: Address, reports: list[WorkerReport]) -> Finding:
    """Say whether a server of this instance folder has a port that is taken."""
    ports: set[int] = set()
    for report in reports:
        try:
            connections = psutil.Process(report.pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            return warning(
                subject, "it is taken, perhaps by this server", "Ask again as the service's user, or as root"
            )
        ports |= {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
    if address.port in ports:
        return ok(subject, "this server listens there")
    return fault(
        subject, "another program listens there", f"Stop it ('ss -ltnp | grep {address.port}'), or choose a port"
    )


def check_tls(settings: Settings) -> Iterator[Finding]:
    """Load certificate and key as a start does, and look at the dates."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return
    try:
        make_context(certificate, key)
        ends = read_end(certificate)
    except (SettingsError, ValueError) as error:
        yield fault("TLS", str(error).rstrip("."), "The start would stop")
        return
    days = (ends - datetime.now(UTC)).days
    told, advice = f"the certificate ends on {ends:%Y-%m-%d}", "Renew it, then reload the server"
    if days < 0:
        yield fault("TLS", told, advice)
    elif days < RENEW_DAYS:
        yield warning("TLS", told, advice)
    else:
        yield ok("TLS", f"{told}, in {days} days")


def read_end(certificate: Path) -> datetime:
    """When the first certificate of a PEM file ends; raises `ValueError`."""
    from cryptography import x509  # most commands need no cryptographic library

    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def begin_large(text: str) -> str:
    """Return a text whose first letter is large; `str.capitalize` would change the paths in it."""
    return text[:1].upper() + text[1:]


def check_secrets(settings: Settings) -> Iterator[Finding]:
    """Look who else may read or change what must be ours."""
    faults = find_exposed_secrets(settings)
    for text in faults:
        told, _, advice = text.rstrip(".").partition(": ")
        yield fault("secrets", told, begin_large(advice))
    state = settings.instance / STATE_FILE if settings.database == OWN_DATABASE else find_file(settings.database)
    journal = [] if state is None else [state, state.with_name(f"{state.name}-wal")]
    for path in (settings.instance / USERS_FILE, settings.instance / TRUST_FILE, *journal):
        if not path.exists() or str(path) in " ".join(faults):
            continue
        is_changeable, advice = find_exposure(path.stat().st_mode, path)
        told, _, todo = advice.partition(": ")
        if is_changeable:
            yield fault("secrets", told, begin_large(todo))
        elif advice and path.name != TRUST_FILE:  # public keys are no secret
            yield warning("secrets", told, begin_large(todo))
        else:
            yield ok("secrets", f"{path} is for the server alone")


def check_folders(settings: Settings) -> Iterator[Finding]:
    """Look whether the folders are there, and can be written."""
    for name, folder, is_needed in (
        ("SCANCER_INSTANCE", settings.instance, True),
        ("SCANCER_MODELS", settings.models, False),
    ):
        if not folder.is_dir():
            parent = next(each for each in folder.parents if each.exists())
            if name == "SCANCER_INSTANCE" and os.access(parent, os.W_OK):
                yield ok(name, f"{folder} will be made at the first start")
            else:
                yield fault(name, f"{folder} is not a folder", f"Make it, or set {name}")
        elif os.access(folder, os.W_OK):
            yield ok(name, f"{folder} can be written")
        elif is_needed:
            yield fault(name, f"{folder} cannot be written", "Give it to the service's user")
        else:
            yield warning(name, f"{folder} cannot be written", "Models cannot be added or removed; else all is well")


def check_state(settings: Settings) -> Finding:
    """Open what keeps the state, without changing it."""
    subject = "database"
    try:
        if settings.database == OWN_DATABASE:
            path = settings.instance / STATE_FILE
            if not path.exists():
                return ok(subject, "nothing was changed yet, so there is no state")
            StateFile(path).read()
            return ok(subject, f"{path} is sound")
        found = look_at_database(settings.database)
    except OlderStateError as error:
        return warning(subject, error.message, "The next start brings it forward; back up first: flask backup FILE")
    except (StateStoreError, SettingsError) as error:
        told = error.message.rstrip(".")
        return fault(subject, told, "Nothing can be changed, and workers serve what they have, until it is back")
    return ok(subject, found)


def look_at_users(settings: Settings) -> Mapping[str, User]:
    """Return the users by name, from where a server would read them; makes no table."""
    if settings.database != OWN_DATABASE:
        from app.state.copying.database_copy import look_at
        from app.state.people.users_table import NEVER_CHANGED, read_mark, read_users

        with look_at(settings.database) as connection:
            if connection is not None and read_mark(connection) != NEVER_CHANGED:
                return read_users(connection)
    return UsersFile(settings.instance).read()


def check_users(settings: Settings) -> Finding:
    """Count who may come in."""
    if settings.auth == "off":
        return ok("users", "nobody is asked for a password: SCANCER_AUTH=off, on this machine alone")
    try:
        users = look_at_users(settings)
    except (UsersError, StateStoreError) as error:
        return fault("users", error.message, "Nobody can log in")
    if not users:
        return fault("users", "there are none, so every request answers 401", "flask users add NAME")
    managers = sum(user.role == "manage" for user in users.values())
    return ok("users", f"{len(users)}, of which {managers} may manage models")


def check_models(settings: Settings, reports: list[WorkerReport]) -> Iterator[Finding]:
    """Ask the running server, or look at the files, which takes a moment for each model."""
    folders = find_model_folders(settings.models) if settings.models.is_dir() else []
    if not folders:
        yield fault("models", f"there are none in {settings.models}", "get_started/add_a_model.md adds one")
    for folder in folders:
        states = {report.states[folder.label] for report in reports if folder.label in report.states}
        reason = find_reason(folder)
        if not reason and State.UNAVAILABLE in states and is_wanted(settings, folder):
            reason = "a worker could not load it; its log and /models say why"
        subject = f"model {folder.label}"
        if reason:
            yield fault(subject, reason, f"flask models check {folder.label}")
        else:
            told = f"; {', '.join(sorted(states))}" if states else ""
            yield ok(subject, f"its files are sound{told}")


def is_wanted(settings: Settings, folder: ModelFolder) -> bool:
    """Whether a version is to be in memory, as far as the state can be read."""
    with suppress(StateStoreError):
        wanted = look_at_state(settings).versions.get((folder.name, folder.version))
        return wanted is None or (wanted.is_registered and wanted.is_loaded)
    return True


def look_at_state(settings: Settings) -> WantedState:
    """Read what is wanted, and make no table; raises `StateStoreError`."""
    if settings.database == OWN_DATABASE:
        path = settings.instance / STATE_FILE
        return StateFile(path).read() if path.exists() else WantedState()
    from app.state.copying.database_copy import look_at
    from app.state.state_store import read_rows

    with look_at(settings.database) as connection:
        return WantedState() if connection is None else schema.read_state(partial(read_rows, connection))


def find_reason(folder: ModelFolder) -> str:
    """Say why a model's files cannot be served; nothing if they can."""
    try:
        if folder.is_archive:
            folder.read_archive()
        else:
            manifest = folder.read_manifest()
            folder.verify_artifact(manifest)
            if not runs_natively(manifest):
                folder.read_report(manifest)
    except ModelFolderError as error:
        return error.message
    return ""
