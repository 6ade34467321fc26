"""What must hold before a server may start: passwords travel encrypted, and secrets are for the server alone."""

import stat
from pathlib import Path

from app.config.settings import Settings
from app.errors import SettingsError
from app.processes.exposure import WRITE
from app.users import USERS_FILE

ANYWHERE = "anywhere"


def check_start(settings: Settings) -> None:
    """Raise `SettingsError` if the server would be less safe than its operator has said it may be."""
    for fault in (find_plain_http(settings), *find_exposed_secrets(settings)):
        if fault:
            raise SettingsError(fault)


def find_plain_http(settings: Settings) -> str:
    """Say why passwords would travel in the clear, and the ways out; nothing if they do not."""
    far = [str(address) for address in settings.addresses if not address.is_loopback]
    is_encrypted = settings.tls_certificate is not None or settings.trusted_proxies > 0
    if not far or is_encrypted or settings.plain_http == ANYWHERE:
        return ""
    return (
        f"other machines can reach {', '.join(far)}, and passwords would travel to it in the clear. There are three "
        "ways out: set SCANCER_TLS_CERTIFICATE and SCANCER_TLS_KEY; or listen on 127.0.0.1 behind a proxy on this "
        "machine that adds TLS (deploy/nginx/scancer.conf); or set SCANCER_TRUSTED_PROXIES to the number of proxies "
        f"that add it. SCANCER_PLAIN_HTTP={ANYWHERE} starts the server all the same."
    )


def find_exposed_secrets(settings: Settings) -> list[str]:
    """Say which files with secrets others may change, or, with a private key, read; and what to do."""
    faults = []
    users, key = settings.instance / USERS_FILE, settings.tls_key
    if read_mode(users) & WRITE:
        faults.append(f"{users} may be changed by other users of this machine: run 'chmod 600 {users}'.")
    if key is not None and read_mode(key) & (WRITE | stat.S_IROTH):
        faults.append(f"SCANCER_TLS_KEY={key} is open to other users of this machine: run 'chmod 600 {key}'.")
    return faults


def read_mode(path: Path) -> int:
    """The mode of a file; 0 for one that is not there, or cannot be looked at, which others say better."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0
