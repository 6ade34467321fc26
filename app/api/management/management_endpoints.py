"""The management address: TorchServe's list, description, registration, scaling, default and removal of models.

Paths, parameters, texts, statuses and the order of keys are TorchServe's, since its clients come here unchanged. A
change needs the role `manage`.
"""

import json
import logging
import re
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.api.management.descriptions import make_description
from app.api.management.management_shapes import MAX_PAGE, make_registered, make_registered_list
from app.api.management.model_bodies import MANIFEST_FIELD, fetch_model, receive_model
from app.api.predict.answers import read_patience
from app.api.request.auth import list_askable, require
from app.api.request.changes import await_workers, lend_changes, note, refuse_other_sites, translate_errors
from app.api.request.parameters import Parameters, read_parameters, read_query
from app.api.request.services import facts, services
from app.errors import BadRequestError, ModelStartError, ServiceUnavailableError
from app.exchange.quarantine import IncomingFile
from app.exchange.remote_source import forget_query, is_remote
from app.handlers.client.handler_model import NO_DESCRIBER
from app.handlers.handler_archive import HANDLER_PATTERN, HANDLER_RULE
from app.manifest.bounds import (
    BATCH_DELAY_MS,
    BATCH_SIZE,
    PAGE_SIZE,
    PAGE_TOKEN,
    TIMEOUT_S,
    UNLOAD_TIMEOUT_S,
    WORKERS,
    refuse,
)
from app.processes.turns import give_way
from app.registry.model_changes import Change, Wishes
from app.registry.model_entry import ModelEntry
from app.state.wanted import UNSAID_S
from app.state.worker_reports import read_reports

log = logging.getLogger(__name__)
blueprint = Blueprint("management", __name__)
blueprint.before_request(refuse_other_sites)

REGISTERING = (
    *("url", "model_name", "handler", "runtime", "batch_size", "max_batch_delay", "initial_workers", "synchronous"),
    *("response_timeout", "startup_timeout", "s3_sse_kms", "sha256"),
)
SCALING = ("min_worker", "max_worker", "model_version", "synchronous", "timeout", "number_gpu")
UNREGISTERING = ("synchronous", "timeout")
"""The parameters that TorchServe knows, and `sha256`; another one is a slip that would go unnoticed."""
ALL = "all"
RUNTIMES = ("python", "python3", "LSP")
UPDATING = "Processing worker updates..."
MAX_NAME_BYTES, MAX_HANDLER_BYTES, MAX_SHA256_BYTES, MAX_URL_BYTES = 255, 1024, 64, 8192
"""Lengths of texts. 255 bytes is the longest name of a file, so also the longest `url` that is no real URL."""


def list_registered() -> ResponseReturnValue:
    """List the default version of every model, a page at a time."""
    query = read_query()
    limit, token = query.page("limit", PAGE_SIZE, MAX_PAGE), query.page("next_page_token", PAGE_TOKEN, 0)
    return pretty(make_registered_list(list_askable(services().registry.defaults()), limit, token))


def describe_registered(name: str, version: str | None) -> ResponseReturnValue:
    """Describe one version, the default unless it is named, or all; the answer is always a list."""
    service = services()
    entry = service.registry.get(name, None if version == ALL else version)
    facts().model, facts().version = entry.folder.name, entry.folder.version
    versions = service.registry.versions(name)
    entries = [service.registry.get(name, each) for each in versions] if version == ALL else [entry]
    reports = read_reports(service.settings.instance)
    described = [make_registered(each, reports, service.settings) for each in entries]
    if read_query().truth("customized", False) and version != ALL:
        custom = describe_customized(entry, versions)
        described[0] |= {"customizedMetadata": custom} if custom is not None else {}
    return pretty(described)


def describe_customized(entry: ModelEntry, versions: list[str]) -> dict[str, Any] | None:
    """Describe a model by its handler, or by our own description if it has none; 503 where it has no worker."""
    service = services()
    name = entry.folder.name
    with service.registry.lend(name, entry.folder.version) as lent:
        if (handler := lent.handler) is not None:
            give_way()
            return handler.describe_itself(facts().request_id, read_patience(handler.timeout_ms))
    if entry.served is None:
        raise ServiceUnavailableError(NO_DESCRIBER.format(name))
    return make_description(entry, versions, service.registry.get(name).folder.version)


@blueprint.post("/models")
@require("manage")
def register_model() -> ResponseReturnValue:
    """Register the model that `url` names or that is the body, and load it if it is to have workers."""
    given, settings = read_parameters().require_known(REGISTERING), services().settings
    url, wishes = given.text("url", MAX_URL_BYTES), read_wishes(given)
    sha256 = given.text("sha256", MAX_SHA256_BYTES)  # checked before anything is fetched
    if url is None:
        with translate_errors(), receive_model(request, settings) as received:
            if received is None:
                raise BadRequestError("Parameter url is required.")
            file, fields = received
            manifest = write_manifest(file, fields.pop(MANIFEST_FIELD, None))
            given = given.extend(fields).require_known(REGISTERING)
            change = register_file(file, f"sha256:{file.sha256}", given, read_wishes(given), manifest)
    elif is_remote(url):
        with translate_errors(), fetch_model(url, settings) as file:
            change = register_file(file, forget_query(url), given, wishes)
    else:
        given.text("url", MAX_NAME_BYTES)
        with lend_changes() as changes:
            change = note(changes.register(url, wishes, sha256), "model registered")
    return answer_registration(change, given)


def write_manifest(file: IncomingFile, text: str | None) -> Path | None:
    """Write the manifest of an artifact that comes alone beside it, in quarantine."""
    if text is None:
        return None
    path = file.path.with_name("manifest")
    path.write_text(text, encoding="utf-8")
    return path


def register_file(
    file: IncomingFile, url: str, given: Parameters, wishes: Wishes, manifest: Path | None = None
) -> Change:
    """Register a file that came over a network, if it is the one that the caller named by its SHA-256."""
    extra = {"request_id": facts().request_id, "bytes": file.size, "sha256": file.sha256}
    log.info("a model has come over the network", extra=extra)
    file.check_sha256(given.text("sha256", MAX_SHA256_BYTES))
    return note(services().changes.register_file(file.path, url, wishes, manifest, file.quarantine), "model registered")


def read_wishes(given: Parameters) -> Wishes:
    """Read what a registration asks for; raises `BadRequestError`."""
    runtime = given.text("runtime", MAX_NAME_BYTES)
    if runtime is not None and runtime not in RUNTIMES:
        raise BadRequestError(f"Invalid RuntimeType value: {runtime}")
    handler = given.text("handler", MAX_HANDLER_BYTES) or None
    if handler is not None and not HANDLER_PATTERN.fullmatch(handler):
        raise BadRequestError(refuse("handler", handler, HANDLER_RULE).message)
    return Wishes(
        handler=handler,
        model_name=given.text("model_name", MAX_NAME_BYTES),
        workers=given.whole("initial_workers", WORKERS),
        batch_size=given.whole("batch_size", BATCH_SIZE),
        max_batch_delay_ms=given.whole("max_batch_delay", BATCH_DELAY_MS),
        response_timeout_s=given.whole("response_timeout", TIMEOUT_S) or UNSAID_S,
        startup_timeout_s=given.whole("startup_timeout", TIMEOUT_S) or UNSAID_S,
    )


def answer_registration(change: Change, given: Parameters) -> Response:
    """Answer once the workers have followed; a version that cannot be loaded is unregistered again."""
    (name, version), workers = change.key, change.workers
    if not workers:
        await_workers(change)
        return status(
            f'Model "{name}" Version: {version} registered with 0 initial workers. '
            "Use scale workers API to add workers for the model."
        )
    if not given.truth("synchronous", True):
        return status(UPDATING, HTTPStatus.ACCEPTED)
    if not await_workers(change):
        with lend_changes() as changes:
            await_workers(note(changes.withdraw(change), "model unregistered"))
            changes.sweep(change)
        raise ModelStartError(f"Failed to start workers for model {name} version: {version}")
    return status(f'Model "{name}" Version: {version} registered with {workers} initial workers')


@blueprint.put("/models/<model_name>")
@blueprint.put("/models/<model_name>/<version>")
@require("manage")
def scale_model(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Set the number of workers of a version; with 0 it stays registered and is not loaded."""
    given = read_parameters().require_known(SCALING)
    version = version or given.text("model_version", MAX_NAME_BYTES)
    if re.fullmatch(r"-0*[1-9][0-9]*", request.args.get("min_worker", "")):
        raise BadRequestError("min_worker cannot be less than 0.")  # in TorchServe's words
    least = given.whole("min_worker", WORKERS)
    min_workers = 1 if least is None else least
    most = given.whole("max_worker", WORKERS)
    given.whole("number_gpu", WORKERS)  # checked alone: there are no GPU workers, and every request is answered first
    given.whole("timeout", UNLOAD_TIMEOUT_S)
    with lend_changes() as changes:
        change = note(
            changes.scale(model_name, version, min_workers, min_workers if most is None else most),
            f"model scaled to {min_workers}",
        )
    if not given.truth("synchronous", False):
        return status(UPDATING, HTTPStatus.ACCEPTED)
    if not await_workers(change) and min_workers:
        raise ModelStartError(f"Failed to start workers for model {model_name} version: {change.key[1]}")
    of_version = f", version: {version}" if version else ""
    return status(f"Workers scaled to {min_workers} for model: {model_name}{of_version}")


@blueprint.put("/models/<model_name>/<version>/set-default")
@require("manage")
def set_default_version(model_name: str, version: str) -> ResponseReturnValue:
    """Make a version the default; the answer comes when every worker has followed."""
    read_query().require_known(())
    with lend_changes() as changes:
        change = note(changes.set_default(model_name, version), "default chosen")
    await_workers(change)
    return status(f'Default version successfully updated for model "{model_name}" to "{version}"')


@blueprint.delete("/models/<model_name>")
@blueprint.delete("/models/<model_name>/<version>")
@require("manage")
def unregister_model(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Unregister a version, the default unless it is named; it ends once its requests are answered."""
    read_query().require_known(UNREGISTERING).whole("timeout", UNLOAD_TIMEOUT_S)  # every request is answered first
    with lend_changes() as changes:
        await_workers(note(change := changes.unregister(model_name, version), "model unregistered"))
        changes.sweep(change)
    return status(f'Model "{model_name}" unregistered')


def status(text: str, code: int = HTTPStatus.OK) -> Response:
    """Make TorchServe's status object."""
    return pretty({"status": text}, code)


def pretty(document: Any, code: int = HTTPStatus.OK) -> Response:
    """Make a JSON answer that looks as TorchServe's do."""
    return Response(json.dumps(document, indent=2) + "\n", code, mimetype="application/json")
