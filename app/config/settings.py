"""Settings: everything an operator can turn, read once from the environment.

Each field of `Settings` is the variable `SCANCER_<FIELD>`; its unit stands in its name, its meaning in `help`.
`get_started/settings.md` is made from these fields (`flask --app wsgi settings`), and a test keeps them together.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from app.config.setting_types import (
    ENVELOPES,
    NO_ENVELOPE,
    OWN_DATABASE,
    PROJECT_ROOT,
    Address,
    address,
    parse_choice,
    parse_database,
    parse_hosts,
    parse_path,
    parse_patterns,
    setting,
    whole,
)
from app.config.torchserve_properties import read_config
from app.errors import SettingsError

PREFIX = "SCANCER_"
MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder of the workers' metrics; prometheus_client's own variable."""
DEFAULT_BATCH_SIZE = 8
"""Pictures that are inferred together, unless a model's manifest says otherwise; more wait for the next batch."""
HANDLERS_VARIABLE = "HANDLERS_FOLDER_OF_SCANCER"
"""Names the folder in which the workers of one server find the manager of their handlers' processes."""
CALLER_IS_GONE, SERVER_IS_STOPPING = "scancer.caller_is_gone", "scancer.server_is_stopping"
"""What our gunicorn worker tells the application in a request's environment: a callable, and a truth value."""
OPEN_INFERENCE_PATHS = ("/v1/", "/v2")
"""How the paths of KServe's protocols begin: there an error is `{"error": "…"}`."""
# What Kubernetes puts into every container beside a service called "scancer".
FOREIGN_PATTERN = re.compile(r"SCANCER_(PORT|SERVICE)(_.*)?")
KIB = 1024
MIB = 1024 * KIB


def is_ours(name: str) -> bool:
    """Whether an environment variable is meant to be a setting."""
    return name.startswith(PREFIX) and not FOREIGN_PATTERN.fullmatch(name)


def read_value(item: Any, name: str, text: str) -> Any:
    """Read the text of a setting.

    Args:
        item: the field of `Settings`.
        name: by which whoever wrote the text knows it.
        text: the value as it was written.

    Raises:
        SettingsError: it is not allowed.
    """
    try:
        return item.metadata["parse"](text.strip())
    except ValueError:
        shown = name if item.metadata["is_secret"] else f"{name}={text!r}"
        raise SettingsError(f"{shown} is not allowed: it must be {item.metadata['allowed']}.") from None


def count_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Settings:
    """The settings of one server, checked; see each field's `help` for its meaning."""

    inference_address: Address = address(8080, "Where predictions, models and health are served.")
    management_address: Address = address(8081, "Where models and health are served to operators.")
    metrics_address: Address = address(
        8082, "Where Prometheus reads `/metrics`; open on loopback, behind a password elsewhere."
    )
    tls_certificate: Path | None = setting(
        None,
        parse_path,
        "a file",
        "The server's certificate and its chain, PEM; with it all three addresses speak TLS, and nothing else.",
    )
    tls_key: Path | None = setting(None, parse_path, "a file", "The certificate's private key, PEM, not encrypted.")
    ts_config: Path | None = setting(
        None,
        parse_path,
        "a file",
        "TorchServe's `config.properties`: its keys give the settings that no variable gives; see from_torchserve.md.",
    )
    models: Path = setting(PROJECT_ROOT / "models", parse_path, "a folder", "The model repository.")
    instance: Path = setting(
        PROJECT_ROOT / "instance",
        parse_path,
        "a folder",
        "Where users and run-time state are kept; a server of other models needs one of its own.",
    )
    store: Path = setting(
        PROJECT_ROOT / "store", parse_path, "a folder", "Where `POST /models?url=NAME` looks for what NAME names."
    )
    allowed_urls: tuple[str, ...] = setting(
        (),
        parse_patterns,
        "regular expressions of URLs, joined by commas",
        "Which URLs `POST /models?url=` may fetch: those that match one expression as a whole. With none, no model is "
        "fetched.",
    )
    private_hosts: tuple[str, ...] = setting(
        (),
        parse_hosts,
        "names or addresses of hosts, without scheme and port, joined by commas",
        "Hosts outside the internet (loopback, private networks) that an allowed URL may fetch from, e.g. "
        "`models.internal,10.0.0.7,::1`.",
    )
    download_timeout_s: int = whole(300, 1, 86400, "Seconds that fetching a model from a URL may take.")
    database: str = setting(
        OWN_DATABASE,
        parse_database,
        "sqlite, or a URL as SQLAlchemy reads it, e.g. postgresql+psycopg://user:password@host/name",
        "Where it is kept which versions are wanted; `sqlite`: in a file in the instance folder.",
        is_secret=True,
    )
    auth: str = setting(
        "on",
        parse_choice("on", "off"),
        "on or off",
        "`off` asks nobody for a password; allowed only while every address is a loopback one.",
    )
    workers: int = whole(count_cores(), 1, 256, "gunicorn worker processes; the default is the number of cores.")
    threads: int = whole(32, 1, 256, "Requests a worker handles at a time.")
    initial_workers: int = whole(
        0,
        0,
        256,
        "Workers of a model that is registered without `initial_workers`, unless its archive says; with 0 it is not "
        "loaded.",
    )
    inference_threads: int = whole(
        0, 0, 256, "Cores one inference may use, in each worker; 0: one, or all for a model that takes over 50 ms."
    )
    loaded_at_start: int = whole(
        2,
        0,
        10000,
        "Compiled models that a worker loads when it starts; others are loaded when they are first asked for.",
    )
    queue_size: int = whole(16, 1, 10000, "Requests that may wait for one model in one worker; one more answers 503.")
    handler_queue_size: int = whole(
        100, 1, 10000, "The same of a handler, in all workers together, unless its archive says `jobQueueSize`."
    )
    engine: str = setting(
        "auto",
        parse_choice("auto", "native"),
        "auto or native",
        "`auto` runs each model as its manifest says; `native` runs all in their own frameworks.",
    )
    precision: str = setting(
        "f32",
        parse_choice("f32", "int8"),
        "f32 or int8",
        "`int8` serves the INT8 version of each compiled model that has an accepted one, the others in float32.",
    )
    programs: str = setting(
        "off",
        parse_choice("off", "all"),
        "off or all",
        "Which programs run, of archives and of models in TorchScript, `.pt2`, ONNX or SavedModel: `off`: those that "
        "a trusted key signed; `all`: every one.",
    )
    handler_memory_bytes: int = whole(
        8 * 1024 * MIB,
        256 * MIB,
        1024 * 1024 * MIB,
        "Most address space of a process that runs an archive's program, in bytes.",
    )
    envelope: str = setting(
        NO_ENVELOPE,
        parse_choice(*ENVELOPES),
        "none, body, json, kserve or kservev2",
        "How bodies wrap what programs of archives get, unless an archive names its envelope; see from_torchserve.md.",
    )
    prediction_timeout_ms: int = whole(
        60_000,
        1,
        3_600_000,
        "Milliseconds a prediction may take; past it 504. `X-Request-Timeout-Ms` may ask for less.",
    )
    native_timeout_s: int = whole(120, 1, 3600, "Seconds a natively run model may take for one batch.")
    handler_response_timeout_s: int = whole(
        120,
        1,
        86400,
        "Seconds a handler may take for one batch, unless its archive (`responseTimeout`) or registration says.",
    )
    handler_startup_timeout_s: int = whole(
        120,
        1,
        86400,
        "Seconds a handler may take to load its model, unless its archive (`startupTimeout`) or registration says.",
    )
    compile_timeout_s: int = whole(600, 1, 86400, "Seconds a compilation at start may take.")
    max_body_bytes: int = whole(
        32 * MIB, KIB, 1024 * MIB, "Largest request body, in bytes, but a model's; a larger one answers 413."
    )
    compile_memory_bytes: int = whole(
        16 * 1024 * MIB, 512 * MIB, 1024 * 1024 * MIB, "Most address space of a process that compiles, in bytes."
    )
    max_pixels: int = whole(25_000_000, 1, 1_000_000_000, "Largest picture, in pixels; a larger one answers 422.")
    max_side_px: int = whole(16_384, 1, 65_535, "Longest side of a picture, in pixels; a longer one answers 422.")
    max_images: int = whole(64, 1, 10000, "Most pictures in one request; more answer 400.")
    max_model_bytes: int = whole(
        1024 * MIB,
        MIB,
        64 * 1024 * MIB,
        "Largest model that is added or sent, in bytes; an archive may unpack to four times as many.",
    )
    login_memory_s: int = whole(300, 0, 86400, "Seconds a worker remembers a verified password; 0 forgets at once.")
    request_timeout_s: int = whole(60, 1, 3600, "Seconds after which gunicorn replaces a worker that hangs.")
    graceful_timeout_s: int = whole(30, 1, 3600, "Seconds that requests in flight get when the server stops.")
    stop_delay_s: int = whole(
        1, 0, 600, "Seconds a stopping server says that it is not ready and answers on, before it ends its connections."
    )
    upload_timeout_s: int = whole(
        60, 1, 3600, "Seconds a client may take to send one request; a slower one answers 408."
    )
    keepalive_s: int = whole(5, 0, 3600, "Seconds an idle connection is kept open.")
    log_level: str = setting(
        "INFO",
        parse_choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "DEBUG, INFO, WARNING or ERROR",
        "Least severe log line that is written.",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from the environment.

        Raises:
            SettingsError: a variable has a value that is not allowed, or is not a setting at all, or wants another
                beside it; the message names it and what is allowed.
        """
        given = os.environ if environ is None else environ
        known = {PREFIX + item.name.upper(): item for item in fields(cls)}
        own = {name: text for name, text in given.items() if is_ours(name)}
        for name in sorted(own.keys() - known):
            close = get_close_matches(name.removeprefix(PREFIX), [item.name.upper() for item in fields(cls)], 1)
            hint = f"; did you mean {PREFIX}{close[0]}?" if close else "."
            raise SettingsError(f"{name} is not a setting{hint}")
        values = {known[name].name: read_value(known[name], name, text) for name, text in own.items()}
        if values.get("ts_config"):
            theirs = read_config(values["ts_config"], given).settings
            items = {item.name: item for item in fields(cls)}
            values = {
                name: read_value(items[name], *text) for name, text in theirs.items() if name not in values
            } | values
        if ("tls_certificate" in values) != ("tls_key" in values):
            raise SettingsError("SCANCER_TLS_CERTIFICATE and SCANCER_TLS_KEY go together: one of them is not set.")
        settings = cls(**values)
        settings.check_auth()
        return settings

    def check_auth(self) -> None:
        """Raise `SettingsError` if nobody is asked for a password where other machines can reach the server."""
        far = [str(address) for address in self.addresses if not address.is_loopback]
        if self.auth == "off" and far:
            raise SettingsError(
                f"SCANCER_AUTH=off is not allowed while other machines can reach {', '.join(far)}: "
                "every address must be a loopback one."
            )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The distinct addresses to listen on."""
        return tuple(dict.fromkeys((self.inference_address, self.management_address, self.metrics_address)))


def describe_settings() -> str:
    """Return the settings as a Markdown table."""
    rows = ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for item in fields(Settings):
        default = item.default
        if isinstance(default, Path):
            default = f"{default.relative_to(PROJECT_ROOT)}/"
        if item.name == "workers":
            default = "number of cores"
        if default in (None, ()):
            default = "not set"
        name = PREFIX + item.name.upper()
        rows.append(f"| `{name}` | `{default}` | {item.metadata['allowed']} | {item.metadata['help']} |")
    return "\n".join(rows) + "\n"
