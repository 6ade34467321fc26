"""Keeps servers of other models out of an instance folder: what workers report there is awaited by all its servers."""

import fcntl
import hashlib
import json
import os
from pathlib import Path

from app.config.settings import Settings
from app.errors import SettingsError

CLAIM_FILE = "server.lock"


def claim_instance(settings: Settings) -> int:
    """Claim the instance folder for servers of these models; return the descriptor that holds the claim.

    Servers of the same models share it. The claim ends with the process, however that ends: it is a lock.

    Raises:
        SettingsError: a server of other models, or of another database, runs on it.
    """
    path, own = settings.instance / CLAIM_FILE, describe_server(settings)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # there are others, or one that begins at this moment
        pass
    else:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(own).encode(), 0)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    # Between the two locks another one may have been first: whatever is written now is what all of them agree on.
    found = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    if is_alike(found, own):
        return descriptor
    os.close(descriptor)
    is_of_others = found["database"] == own["database"]
    other = f"of other models ({found['models']})" if is_of_others else "with another SCANCER_DATABASE"
    raise SettingsError(
        f"SCANCER_INSTANCE={settings.instance} is in use by a server {other}; "
        "set SCANCER_INSTANCE to a folder of this server's own."
    )


def describe_server(settings: Settings) -> dict[str, str]:
    """What servers of one instance folder must have in common; a database's URL may hold a password."""
    database = hashlib.sha256(settings.database.encode()).hexdigest()
    return {"models": str(settings.models.absolute()), "database": database}


def is_alike(found: dict[str, str], own: dict[str, str]) -> bool:
    """Whether two servers have the same models, by whatever path, and the same database."""
    theirs, ours = Path(found["models"]), Path(own["models"])
    is_same_folder = theirs == ours or (theirs.exists() and theirs.samefile(ours))
    return is_same_folder and found["database"] == own["database"]
