"""The management address: TorchServe's list, description, registration, scaling, default and removal of models.

Paths, parameters, texts, statuses and the order of keys are TorchServe's, since its clients come here unchanged. Who
changes anything needs the role `manage`.
"""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.api.descriptions import make_description
from app.api.management.management_shapes import make_registered, make_registered_list
from app.api.management.model_bodies import MANIFEST_FIELD, fetch_model, receive_model
from app.api.openapi import read_document
from app.api.predict.predictions import read_patience
from app.api.request.auth import require
from app.api.request.services import facts, services
from app.errors import (
    BadRequestError,
    ConflictError,
    ForbiddenError,
    InvalidModelError,
    ModelExistsError,
    ModelFolderError,
    ModelStartError,
    ServiceUnavailableError,
    StateStoreError,
    UnloadTimeoutError,
)
from app.exchange.incoming_file import IncomingFile
from app.exchange.remote_source import forget_query, is_remote
from app.handlers.client.handler_model import NO_DESCRIBER
from app.registry.model_changes import Change, Wishes
from app.registry.model_entry import ModelEntry, State
from app.state.wanted import UNSAID_S
from app.state.worker_reports import read_reports

log = logging.getLogger(__name__)
blueprint = Blueprint("management", __name__)

ALL = "all"
RUNTIMES = ("python", "python3", "LSP")
UPDATING = "Processing worker updates..."
FOLLOW_TIMEOUT_S = 120
LOOK_S = 0.02
MAX_INTEGER = 2**31 - 1


def list_registered() -> ResponseReturnValue:
    """List the default version of every model, a page at a time."""
    limit, token = read_integer(request.args, "limit", 100), read_integer(request.args, "next_page_token", 0)
    return pretty(make_registered_list(services().registry.defaults(), limit, token))


def describe_registered(name: str, version: str | None) -> ResponseReturnValue:
    """Describe one version, the default one unless it is named, or all; as a list in any case."""
    service = services()
    entry = service.registry.get(name, None if version == ALL else version)
    facts().model, facts().version = entry.folder.name, entry.folder.version
    versions = service.registry.versions(name)
    entries = [service.registry.get(name, each) for each in versions] if version == ALL else [entry]
    reports = read_reports(service.settings.instance)
    described = [make_registered(each, reports, service.settings) for each in entries]
    if read_truth(request.args, "customized", False) and version != ALL:
        custom = describe_customized(entry, versions)
        described[0] |= {"customizedMetadata": custom} if custom is not None else {}
    return pretty(described)


def describe_customized(entry: ModelEntry, versions: list[str]) -> dict[str, Any] | None:
    """What the program of an archive says of its model, or our own description of a model without one.

    Raises:
        ServiceUnavailableError: it has no worker, or the program failed.
    """
    service = services()
    name = entry.folder.name
    with service.registry.lend_handler(name, entry.folder.version) as handler:
        if handler is not None:
            patience = read_patience(facts().started, service.settings, handler.timeout_ms)
            return handler.describe_itself(facts().request_id, patience)
    if entry.served is None:
        raise ServiceUnavailableError(NO_DESCRIBER.format(name))
    return make_description(entry, versions, service.registry.get(name).folder.version)


@blueprint.before_request
def refuse_other_sites() -> None:
    """Refuse a change that a page of another site asks for: a browser sends the password along by itself."""
    site, origin = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Origin")
    if site not in ("none", "same-origin") or (origin and urlsplit(origin).netloc != request.host):
        raise ForbiddenError("Changes are not taken from pages of other sites.")


@blueprint.post("/models")
@require("manage")
def register_model() -> ResponseReturnValue:
    """Register the model that `url` names or that is the body, and load it if it is to have workers."""
    given, settings = read_parameters(), services().settings
    url = None if given.get("url") is None else str(given["url"])
    if url is None:
        with translate_store_errors(), receive_model(request, settings) as received:
            if received is None:
                raise BadRequestError("Parameter url is required.")
            file, fields = received
            manifest = write_manifest(file, fields.pop(MANIFEST_FIELD, None))
            given |= fields
            change = register_file(file, f"sha256:{file.sha256}", given, manifest)
    elif is_remote(url):
        with translate_store_errors(), fetch_model(url, settings) as file:
            change = register_file(file, forget_query(url), given)
    else:
        change = change_store("register", url, read_wishes(given))
    return answer_registration(change, given)


def write_manifest(file: IncomingFile, text: str | None) -> Path | None:
    """Put the manifest of an artifact that comes alone beside it, in quarantine."""
    if text is None:
        return None
    path = file.path.with_name("manifest")
    path.write_text(text, encoding="utf-8")
    return path


def register_file(file: IncomingFile, url: str, given: dict[str, Any], manifest: Path | None = None) -> Change:
    """Register what came over a network, if it is what the caller thinks it is."""
    extra = {"request_id": facts().request_id, "bytes": file.size, "sha256": file.sha256}
    log.info("a model has come over the network", extra=extra)
    file.check_sha256(given.get("sha256"))
    return change_store("register_file", file.path, url, read_wishes(given), manifest, file.quarantine)


def read_wishes(given: dict[str, Any]) -> Wishes:
    """What the parameters of a registration say of the version; raises `BadRequestError`."""
    runtime = given.get("runtime")
    if runtime is not None and runtime not in RUNTIMES:
        raise BadRequestError(f"Invalid RuntimeType value: {runtime}")
    workers = read_integer(given, "initial_workers", -1)
    return Wishes(
        model_name=given.get("model_name"),
        workers=workers if workers >= 0 else None,
        batch_size=read_positive(given, "batch_size"),
        max_batch_delay_ms=read_positive(given, "max_batch_delay"),
        response_timeout_s=read_positive(given, "response_timeout") or UNSAID_S,
        startup_timeout_s=read_positive(given, "startup_timeout") or UNSAID_S,
    )


def answer_registration(change: Change, given: dict[str, Any]) -> Response:
    """Answer once the workers have followed; a version that cannot be loaded is let go again."""
    (name, version), workers = change.key, change.workers
    if not workers:
        await_workers(change)
        return status(
            f'Model "{name}" Version: {version} registered with 0 initial workers. '
            "Use scale workers API to add workers for the model."
        )
    if not read_truth(given, "synchronous", True):
        return status(UPDATING, HTTPStatus.ACCEPTED)
    if not await_workers(change):
        await_workers(change_store("withdraw", change))
        change_store("sweep")
        raise ModelStartError(f"Failed to start workers for model {name} version: {version}")
    return status(f'Model "{name}" Version: {version} registered with {workers} initial workers')


@blueprint.put("/models/<model_name>")
@blueprint.put("/models/<model_name>/<version>")
@require("manage")
def scale_model(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Say how many workers a version is to have; with none it stays registered and is not loaded."""
    version = version or request.args.get("model_version")
    min_workers = read_integer(request.args, "min_worker", 1)
    max_workers = read_integer(request.args, "max_worker", min_workers)
    change = change_store("scale", model_name, version, min_workers, max_workers)
    if not read_truth(request.args, "synchronous", False):
        return status(UPDATING, HTTPStatus.ACCEPTED)
    if not await_workers(change) and min_workers:
        raise ModelStartError(f"Failed to start workers for model {model_name} version: {change.key[1]}")
    of_version = f", version: {version}" if version else ""
    return status(f"Workers scaled to {min_workers} for model: {model_name}{of_version}")


@blueprint.put("/models/<model_name>/<version>/set-default")
@require("manage")
def set_default_version(model_name: str, version: str) -> ResponseReturnValue:
    """Make a version the default; the answer comes when every worker has followed."""
    await_workers(change_store("set_default", model_name, version))
    return status(f'Default version successfully updated for model "{model_name}" to "{version}"')


@blueprint.delete("/models/<model_name>")
@blueprint.delete("/models/<model_name>/<version>")
@require("manage")
def unregister_model(model_name: str, version: str | None = None) -> ResponseReturnValue:
    """Let a version go, the default one unless it is named, once its requests are answered."""
    await_workers(change_store("unregister", model_name, version))
    change_store("sweep")
    return status(f'Model "{model_name}" unregistered')


@blueprint.route("/models/<model_name>", methods=["OPTIONS"])
@require("predict")
def describe_model_api(model_name: str) -> ResponseReturnValue:
    """Send the document of this API, if there is such a model."""
    services().registry.get(model_name)
    return pretty(read_document())


def change_store(method: str, *arguments: Any) -> Change:
    """Make a change of `ModelChanges`; a store that cannot be used answers 503."""
    with translate_store_errors():
        change: Change = getattr(services().changes, method)(*arguments)
    if change is not None:
        facts().model, facts().version = change.key
    return change


@contextmanager
def translate_store_errors() -> Iterator[None]:
    """Answer 400 for a model that is not taken, 409 where its place is taken, 503 where the store cannot be used."""
    try:
        yield
    except ModelFolderError as error:
        make_error = ConflictError if isinstance(error, ModelExistsError) else InvalidModelError
        raise make_error(error.message) from error
    except StateStoreError as error:
        raise ServiceUnavailableError("The state store cannot be used; nothing is known to have changed.") from error


def await_workers(change: Change) -> bool:
    """Wait until every worker that lives has followed a change; return whether the version is ready in all of them.

    Raises:
        UnloadTimeoutError: one has not, in two minutes.
    """
    instance, label = services().settings.instance, "/".join(change.key)
    deadline = time.monotonic() + FOLLOW_TIMEOUT_S
    while time.monotonic() < deadline:
        reports = read_reports(instance)
        states = {report.states.get(label) for report in reports}
        have_followed = all(report.generation >= change.generation for report in reports)
        if have_followed and not states & {State.LOADING, State.UNLOADING}:
            return states <= {State.READY}
        time.sleep(LOOK_S)
    raise UnloadTimeoutError(f"Timed out while cleaning resources: {change.key[0]}")


def read_parameters() -> dict[str, Any]:
    """The parameters of a registration: those of the query, and of a JSON body, which go first."""
    given: dict[str, Any] = dict(request.args)
    if request.mimetype != "application/json" or not request.content_length:
        return given
    try:
        document = json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise BadRequestError("The body is not JSON.") from None
    if not isinstance(document, dict):
        raise BadRequestError("The body is not a JSON object.")
    return given | {key: value for key, value in document.items() if value is not None}


def read_integer(given: Any, name: str, default: int) -> int:
    """A parameter that is a whole number; anything else counts as absent, as in TorchServe."""
    text = str(given.get(name, ""))
    if not re.fullmatch(r"[+-]?[0-9]{1,10}", text) or abs(int(text)) > MAX_INTEGER:
        return default
    return int(text)


def read_positive(given: Any, name: str) -> int | None:
    """A parameter that is a whole number from 1; None if it is anything else."""
    value = read_integer(given, name, 0)
    return value if value > 0 else None


def read_truth(given: Any, name: str, default: bool) -> bool:
    """A parameter that is true or false; any text but `true` is false, as in TorchServe."""
    return str(given[name]).lower() == "true" if name in given else default


def status(text: str, code: int = HTTPStatus.OK) -> Response:
    """Make TorchServe's status object."""
    return pretty({"status": text}, code)


def pretty(document: Any, code: int = HTTPStatus.OK) -> Response:
    """Make a JSON answer that looks as TorchServe's do."""
    return Response(json.dumps(document, indent=2) + "\n", code, mimetype="application/json")
