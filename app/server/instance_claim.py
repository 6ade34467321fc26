"""Keeps servers of different models out of one instance folder: they would wait for each other's workers."""

import hashlib
import json
import os
from pathlib import Path

from app.config.settings import Settings
from app.errors import SettingsError
from app.processes.locks import TRY, open_locked, share_lock

CLAIM_FILE = "server.lock"


def claim_instance(settings: Settings) -> int:
    """Claim the instance folder, which servers of the same models share; return the descriptor of the lock. The lock
    ends with the process in any case. Raises `SettingsError` if a server of other models or another database runs
    there, or it cannot be written.
    """
    own = describe_claim(settings)
    try:
        descriptor, claim = share_lock(settings.instance / CLAIM_FILE, json.dumps(own).encode())
    except OSError as error:
        raise SettingsError(f"SCANCER_INSTANCE={settings.instance} cannot be written: {error.strerror}.") from error
    found = json.loads(claim)
    theirs, ours = Path(found["models"]), Path(own["models"])
    is_same_database = found["database"] == own["database"]
    if is_same_database and (theirs == ours or (theirs.exists() and theirs.samefile(ours))):
        return descriptor
    os.close(descriptor)
    other = f"of other models ({theirs})" if is_same_database else "with another SCANCER_DATABASE"
    raise SettingsError(
        f"SCANCER_INSTANCE={settings.instance} is in use by a server {other}; "
        "set SCANCER_INSTANCE to a folder of this server's own."
    )


def claim_alone(settings: Settings) -> int | None:
    """Claim the instance folder for this process alone; return the descriptor of the lock, None if a server runs.

    A server that starts meanwhile waits until the lock ends. Raises `OSError` if the folder cannot be written.
    """
    try:
        descriptor = open_locked(settings.instance / CLAIM_FILE, TRY)
    except BlockingIOError:
        return None
    content = json.dumps(describe_claim(settings)).encode()
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
    return descriptor


def describe_claim(settings: Settings) -> dict[str, str]:
    """What servers of one instance folder must have in common."""
    database = hashlib.sha256(settings.database.encode()).hexdigest()  # the text holds a password
    return {"models": str(settings.models.absolute()), "database": database}
