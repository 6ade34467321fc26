"""The certificate and key of the server, as the context that all workers inherit."""

import logging
import ssl
from pathlib import Path
from typing import NoReturn

from app.errors import SettingsError

log = logging.getLogger(__name__)

_in_use: list[ssl.SSLContext] = []


def load_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Load both files; for the arbiter, at the start and at each reload.

    A reload must not end a server that runs, as when the files are being replaced just then: the certificate in use
    stays, and the log says why. All workers inherit one context, so a client may resume with one the session that it
    had with another. Raises `SettingsError` if, at the start, the files cannot be used.
    """
    try:
        _in_use[:] = [make_context(certificate, key)]
    except SettingsError as error:
        if not _in_use:
            raise
        log.error("the certificate in use stays", extra={"reason": error.message})
    return _in_use[0]


def make_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make a context of TLS 1.2 and later for HTTP/1.1. Raises `SettingsError` if a file cannot be used."""
    for name, path, mark, what in (
        ("SCANCER_TLS_CERTIFICATE", certificate, b"-----BEGIN CERTIFICATE-----", "certificate"),
        ("SCANCER_TLS_KEY", key, b"PRIVATE KEY-----", "private key"),
    ):
        try:
            text = path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{name}={path} cannot be read: {error.strerror}.") from error
        if mark not in text:
            raise SettingsError(f"{name}={path} holds no {what} in PEM form.")

    def refuse_password() -> NoReturn:
        raise SettingsError(
            f"SCANCER_TLS_KEY={key} is encrypted, and nobody is there to give its password: "
            f"'openssl pkey -in {key.name} -out FILE' writes it without one."
        )

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION  # a handshake costs the server more than its client
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, refuse_password)
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise SettingsError(
                f"SCANCER_TLS_KEY={key} is not the key of SCANCER_TLS_CERTIFICATE={certificate}."
            ) from None
        raise SettingsError(
            f"SCANCER_TLS_CERTIFICATE={certificate} and SCANCER_TLS_KEY={key} cannot be used: {error}."
        ) from error
    return context
