"""Knows which folder has which place: finds sources in `SCANCER_STORE`, and removes folders that no version owns.

A registered folder carries a token, which also stands in the state store: among the strays before the folder gets its
place, with its version from then on, and among the strays again when the version is unregistered. So a process that is
killed on the way leaves a stray, and `sweep` removes the folder that carries its token.
"""

import hashlib
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from app.config.settings import Settings
from app.errors import BadRequestError, ConflictError, InvalidModelError, ModelNotFoundError
from app.exchange.quarantine import PREFIX, Quarantine
from app.exchange.quarantine import sweep as sweep_quarantines
from app.processes.atomic import synchronize
from app.repository.model_folder import ModelFolder
from app.state.store_access import StoreAccess
from app.state.wanted import Key, Plan

log = logging.getLogger(__name__)


def find_source(url: str, store: Path) -> Path | None:
    """Return what `url` names in the store's folder, or None if there is nothing of that name.

    A link in the folder that leads out of it is nothing, too. Raises `ModelNotFoundError` for a `url` that is empty or
    too long, begins with `/`, or has `..` in it.
    """
    if not url:
        raise ModelNotFoundError("empty url")
    if ".." in url:
        raise ModelNotFoundError(f"Relative path is not allowed in url: {url}")
    if "\0" in url or url.startswith("/"):
        raise ModelNotFoundError(f"Model not found at: {url}")
    source = store / url
    try:
        is_inside = source.exists() and source.resolve().is_relative_to(store.resolve())
    except OSError as error:  # a name too long, or a folder that may not be read
        raise ModelNotFoundError(f"Model not found at: {url}") from error
    return source if is_inside else None


def check_sha256(source: Path | None, wanted: str | None) -> None:
    """Raise `InvalidModelError` if a source is not the file that the caller names, `BadRequestError` if it is none."""
    if wanted is None:
        return
    if source is None or not source.is_file():
        raise BadRequestError("sha256 names one file, and this url is a folder; pack it, or leave sha256 out.")
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if wanted.lower() != found:
        raise InvalidModelError("the model is not the one that sha256 names")


def make_token(quarantine: Quarantine, key: Key) -> str:
    """Make the token of a folder in quarantine whose place will be `<name>/<version>`."""
    return f"{quarantine.path.name} {'/'.join(key)}"


def sweep(settings: Settings, access: StoreAccess, ended: str = "") -> None:
    """Remove the quarantines that no process holds, and the folders that no version owns.

    `ended` is the token of an arrival that has failed, or whose version was unregistered since, although somebody still
    holds its quarantine. Raises `StateStoreError` if the store cannot be read or changed, and `DiskFullError`.
    """
    models = settings.models
    sweep_quarantines(models)
    if not any(is_left(models, token, ended) for token in access.read().strays):
        return
    try:
        with access.open().change() as draft:  # in a transaction no other process puts a folder into a place
            for token in sorted(draft.strays):
                if is_left(models, token, ended) and take_away(models, token):
                    draft.strays.discard(token)
    finally:
        sweep_quarantines(models)  # and with them what was taken away, which takes long


def is_left(models: Path, token: str, ended: str) -> bool:
    """Whether nobody brings the folder of a token any more: its quarantine is gone, or its arrival has ended."""
    return token == ended or not (models / token.split(maxsplit=1)[0]).exists()


def take_away(models: Path, token: str) -> bool:
    """Move the folder that carries a token to a quarantine that nobody holds; return whether it has left its place."""
    place = models / token.split()[1]
    try:
        if ModelFolder(place).read_token() == token:
            place.rename(models / f"{PREFIX}{secrets.token_hex(8)}")
            synchronize(place.parent)
            synchronize(models)
        with suppress(OSError):  # the model has other versions, or somebody put files there
            place.parent.rmdir()
    except OSError as error:  # the next sweep tries again
        log.warning("the folder of an unregistered model cannot be removed", extra={"reason": str(error)})
        return False
    return True


def check_free(plan: Plan, key: Key, settings: Settings) -> None:
    """Raise `ConflictError` unless the place of a version is free."""
    name, version = key
    if version in plan.versions.get(name, {}):
        raise already_registered(key)
    known = plan.state.versions.get(key)
    if known is not None and known.token is None and not known.is_registered:
        raise ConflictError(f"A folder among the models holds {name}/{version}: register url={known.url}")
    if os.path.lexists(settings.models / name / version):
        raise ConflictError(
            f"Model version {version} of model {name} is still being removed, or something else lies in its place; "
            "try again in a moment"
        )


def already_registered(key: Key) -> ConflictError:
    """TorchServe's error for a version that is there."""
    return ConflictError(f"Model version {key[1]} is already registered for model {key[0]}")
