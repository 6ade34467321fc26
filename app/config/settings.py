"""Settings: everything an operator can turn, read once from the environment.

To add a setting, add a field to `Settings`, beside those of its group, and run
`flask settings > get_started/settings.md`. The field `max_images` is the variable `SCANCER_MAX_IMAGES`. A
field that is to be the first of its group changes `GROUPS` in `settings_document.py`. A setting that TorchServe has too
gets a row in `torchserve_properties.py`. A test bounds the number of settings.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from app.config.cpu_count import count_cores
from app.config.removed_settings import REMOVED
from app.config.setting_types import (
    NO_HEADER,
    NO_RATE,
    OWN_DATABASE,
    OWN_STORE,
    PERCENT,
    SERVICE_LINK,
    Address,
    address,
    choice,
    file,
    folder,
    parse_database,
    parse_header,
    parse_hosts,
    parse_patterns,
    parse_rate,
    parse_store,
    setting,
    whole,
)
from app.config.torchserve_properties import read_config
from app.errors import SettingsError

PREFIX = "SCANCER_"
MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder of the workers' metrics; prometheus_client's own variable."""
METRICS_BEGINNING = "beginning"
"""The file in that folder that is as old as the counts."""
DEFAULT_BATCH_SIZE = 8
"""Pictures that are inferred together, unless a model's manifest says otherwise; more wait for the next batch."""
CALLER_IS_GONE, SERVER_IS_STOPPING = "scancer.caller_is_gone", "scancer.server_is_stopping"
"""What our gunicorn worker tells the application in a request's environment: a callable, and a truth value."""
ANSWER_DELAY_S, CALLER_IS_KNOWN = "scancer.answer_delay_s", "scancer.caller_is_known"
"""What the application tells our worker there: for how many seconds its answer is to be withheld, and whether the
caller's password was right."""
MAX_WORKERS = 256
KIB = 1024
MIB = 1024 * KIB


def read_value(item: Any, name: str, text: str) -> Any:
    """Read a field of `Settings`, which an error calls `name`; `SettingsError` quotes no secret and no key."""
    try:
        return item.metadata["parse"](text.strip())
    except ValueError:
        shown = name if item.metadata["is_secret"] or "\n" in text.strip() else f"{name}={text!r}"
        raise SettingsError(f"{shown} is not allowed: it must be {item.metadata['allowed']}.") from None


@dataclass(frozen=True)
class Settings:
    """The settings of one server, checked; see each field's `help` for its meaning."""

    inference_address: Address = address(8080, "Where predictions, the models' descriptions and health are served.")
    management_address: Address = address(8081, "Where operators register, scale and remove models.")
    metrics_address: Address = address(
        8082, "Where Prometheus reads `/metrics`: without a password on loopback, with any user's elsewhere."
    )
    tls_certificate: Path | None = file(
        "The server's certificate and its chain, PEM. With it all three addresses speak TLS and nothing else; "
        "it needs `SCANCER_TLS_KEY`."
    )
    tls_key: Path | None = file("The certificate's private key, PEM, not encrypted.")
    plain_http: str = choice(
        "loopback",
        ("loopback", "anywhere"),
        "Where HTTP without TLS may be spoken. `loopback`: an address that others can reach needs a certificate, or "
        "`SCANCER_TRUSTED_PROXIES`; else the start stops. `anywhere`: passwords may travel in the clear.",
    )
    models: Path = folder("models", "The model repository.")
    instance: Path = folder(
        "instance",
        "Where trusted keys, run-time state and, unless `SCANCER_DATABASE` is set, users are kept. Servers of "
        "different models need different folders.",
    )
    store: Path = folder("store", "Where `POST /models?url=NAME` finds the archive or model folder NAME.")
    database: str = setting(
        OWN_DATABASE,
        parse_database,
        f"sqlite, or a URL as SQLAlchemy reads it, e.g. postgresql+psycopg://user:password@host/name; {PERCENT}",
        "Keeps which model versions are wanted, and the audit trail. `sqlite` is a file in the instance folder. "
        "Another database keeps the users too, so servers that share it serve the same versions to the same users. "
        "PostgreSQL needs `pip install -r deploy/requirements_shared.txt`.",
        is_secret=True,
    )
    ts_config: Path | None = file(
        "TorchServe's `config.properties`. Its keys give the settings that no variable gives; see from_torchserve.md."
    )
    auth: str = choice(
        "on", ("on", "off"), "`off` asks nobody for a password: on loopback addresses alone, behind no trusted proxy."
    )
    trusted_proxies: int = whole(
        0,
        (0, 10),
        "Proxies in front of the server, one behind the other. From so many it believes `X-Forwarded-For`, `-Proto`, "
        "`-Host` and `-Prefix`, so links begin as the caller's did. Set it only if nobody but the proxies can reach "
        "the server, and each of them writes all four headers, as the shipped nginx file does.",
    )
    user_header: str = setting(
        NO_HEADER,
        parse_header,
        "off, or the name of a header that begins with X-, e.g. X-Scancer-User",
        "Names the user whom a proxy has signed in (single sign-on). It is believed from a proxy that itself sends the "
        "token of a user with the role `proxy`, and from nobody else; `SCANCER_TRUSTED_PROXIES` must count it.",
    )
    limits_store: str = setting(
        OWN_STORE,
        parse_store,
        f"memory, or the URL of a Redis, e.g. redis://:password@host:6379/0; {PERCENT}",
        "Keeps how often logins failed, and how much each user asked for. The workers of one server share its memory; "
        "servers that share a Redis count together. It needs `pip install -r deploy/requirements_shared.txt`.",
        is_secret=True,
    )
    prediction_rate: str = setting(
        NO_RATE,
        parse_rate,
        "off, or a number in a second, minute, hour or day, e.g. 100/minute",
        "Requests for predictions and explanations that one user may send; one more answers 429 with `Retry-After`.",
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
    programs: str = choice(
        "off",
        ("off", "all"),
        "Which programs of archives, and which models in TorchScript, `.pt2`, ONNX or SavedModel, may run. `off`: "
        "those that a trusted key signed; `all`: every one.",
    )
    precision: str = choice(
        "f32",
        ("f32", "int8"),
        "`int8` serves the INT8 version of each compiled model that has an accepted one, and the others in float32.",
    )
    model_memory_bytes: int = whole(
        16 * 1024 * MIB,
        (512 * MIB, 1024 * 1024 * MIB),
        "Largest address space, in bytes, of a process that compiles a model or runs an archive's program.",
    )
    max_body_bytes: int = whole(
        32 * MIB, (KIB, 1024 * MIB), "Largest request body, in bytes; a larger one answers 413. Models are not counted."
    )
    max_images: int = whole(64, (1, 10000), "Most pictures in one request; more answer 400.")
    max_pixels: int = whole(
        25_000_000,
        (1, 1_000_000_000),
        "Largest picture, in pixels; a larger one answers 422. The pictures of one request may have four times as many "
        "together.",
    )
    max_model_bytes: int = whole(
        1024 * MIB,
        (MIB, 64 * 1024 * MIB),
        "Largest model that is added or sent, in bytes. An archive may unpack to four times as many.",
    )
    queue_size: int = whole(
        16,
        (1, 10000),
        "Requests that may wait for one compiled model in one worker; one more answers 503. For an archive's program "
        "its `jobQueueSize` counts instead, or else 100.",
    )
    prediction_timeout_ms: int = whole(
        60_000,
        (1, 3_600_000),
        "Milliseconds that a prediction may take; a slower one answers 504. A caller may ask for less with "
        "`X-Request-Timeout-Ms`.",
    )
    response_timeout_s: int = whole(
        120,
        (1, 86400),
        "Seconds that a model in a process of its own may take for one batch before the process is ended. An archive "
        "(`responseTimeout`) or its registration (`response_timeout`) may say otherwise.",
    )
    compile_timeout_s: int = whole(600, (1, 86400), "Seconds that compiling a model may take.")
    upload_timeout_s: int = whole(
        60, (1, 3600), "Seconds that a client may take to send one request; a slower one answers 408."
    )
    stop_delay_s: int = whole(
        1,
        (0, 600),
        "Seconds during which a stopping server still answers, while its health check says that it is not ready. Then "
        "it ends its connections.",
    )
    workers: int = whole(
        min(count_cores(), MAX_WORKERS),
        (1, MAX_WORKERS),
        "Processes that answer requests; each serves all models. The default is the number of cores that the "
        "container's quota and the affinity mask allow.",
    )
    threads: int = whole(
        128, (1, 1024), "Predictions of all models that one worker handles or keeps waiting; one more answers 503."
    )
    inference_threads: int = whole(
        0,
        (0, 256),
        "Cores that one inference may use in each worker. 0: one core, or all cores for a model that takes over 50 ms.",
    )
    log_level: str = choice(
        "INFO",
        ("DEBUG", "INFO", "WARNING", "ERROR"),
        "Least severe log line that is written; lines of the audit trail always are.",
    )
    log_format: str = choice(
        "json", ("json", "text"), "`text` writes log lines for a person; `json` one object a line."
    )
    ts_remarks: tuple[str, ...] = field(default=(), compare=False)
    """No setting: one remark for each key of `ts_config` that counts in part or not at all."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from the environment; raises `SettingsError` with what is wrong and what is allowed."""
        given = os.environ if environ is None else environ
        values, remarks = read_variables(given), []
        if "ts_config" in values:
            theirs = read_config(values["ts_config"], given)
            missing = {name: text for name, text in theirs.settings.items() if name not in values}
            values |= {name: read_value(SETTINGS[name], *text) for name, text in missing.items()}
            remarks = theirs.remarks
        if ("tls_certificate" in values) != ("tls_key" in values):
            raise SettingsError("SCANCER_TLS_CERTIFICATE and SCANCER_TLS_KEY go together: one of them is not set.")
        settings = cls(**values, ts_remarks=tuple(remarks))
        if settings.user_header != NO_HEADER and not settings.trusted_proxies:
            raise SettingsError("SCANCER_USER_HEADER needs SCANCER_TRUSTED_PROXIES: the number of proxies in front.")
        far = [str(address) for address in settings.addresses if not address.is_loopback]
        far += ["a trusted proxy"] * bool(settings.trusted_proxies)
        if settings.auth == "off" and far:
            raise SettingsError(
                f"SCANCER_AUTH=off is not allowed while other machines can reach {', '.join(far)}: "
                "every address must be a loopback one, without SCANCER_TRUSTED_PROXIES."
            )
        return settings

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The distinct addresses to listen on."""
        return tuple(dict.fromkeys((self.inference_address, self.management_address, self.metrics_address)))


SETTINGS = {item.name: item for item in fields(Settings) if item.metadata}
"""The fields of `Settings` that an operator can set, by name."""


def read_variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """Read the variables that are settings; return their values by the name of the field.

    Raises `SettingsError` for a value that is not allowed, and for a variable that is gone or no setting.
    """
    values = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or SERVICE_LINK.fullmatch(f"{variable}={environ[variable]}"):
            continue
        name = variable.removeprefix(PREFIX)
        if name in REMOVED:
            raise SettingsError(f"{variable} is gone: {REMOVED[name]}.")
        if name.lower() not in SETTINGS or not name.isupper():
            close = get_close_matches(name.upper(), [each.upper() for each in SETTINGS], 1)
            hint = f"; did you mean {PREFIX}{close[0]}?" if close else "."
            raise SettingsError(f"{variable} is not a setting{hint}")
        values[name.lower()] = read_value(SETTINGS[name.lower()], variable, environ[variable])
    return values


@cache
def read_settings() -> Settings:
    """Return the settings of this process, read from the environment by the first call alone.

    gunicorn's arbiter makes that call. Its workers are forked with the result, and a reload finds it unchanged, so that
    all parts of a server have the same settings for as long as it runs. Raises as `Settings.from_env`.
    """
    return Settings.from_env()
