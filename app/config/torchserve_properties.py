"""Reads TorchServe's `config.properties`: which keys give settings of ours, and what to do about the others."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from app.errors import SettingsError

FROM_ENVIRONMENT = "enable_envvars_config"
ADDRESSES = {
    "inference_address": {"http": "80", "https": "443"},
    "management_address": {"http": "8081", "https": "8444"},
    "metrics_address": {"http": "8082", "https": "8445"},
}
"""Keys of addresses, and the ports that TorchServe uses for an address without one."""
FILES = {"certificate_file": "tls_certificate", "private_key_file": "tls_key"}
TAKEN = {
    **{key: (key,) for key in ADDRESSES},
    **{key: (setting,) for key, setting in FILES.items()},
    "default_workers_per_model": ("workers",),
    "job_queue_size": ("queue_size",),
    "max_request_size": ("max_body_bytes",),
    "default_response_timeout": ("response_timeout_s", "prediction_timeout_ms"),
    "model_store": ("store",),
    "allowed_urls": ("allowed_urls",),
}
"""Keys that have a meaning here, and the settings that they give."""
TAKEN_REMARKS = {
    "inference_address": "`https://` needs the two files below; all three addresses speak TLS then",
    "management_address": "the same",
    "metrics_address": "the same",
    "certificate_file": "beside `config.properties` if relative; used if an address begins with `https://`",
    "private_key_file": "the same; PEM, not encrypted",
    "default_workers_per_model": "it is the number of processes, each with all models; a registration loads a model "
    "only if it says `initial_workers`, or its archive `minWorkers`",
    "job_queue_size": "it counts for compiled models, in each worker; a handler's queue is the `jobQueueSize` of its "
    "archive's `model-config.yaml`, or else 100",
    "default_response_timeout": "a registration's `response_timeout` and `model-config.yaml` go before the first",
    "allowed_urls": "patterns of `file:` allow nothing; private hosts need SCANCER_PRIVATE_HOSTS too; "
    "absent means none, where TorchServe allows all",
    "model_store": "what `POST /models?url=` finds by its bare name",
}
PARTLY_TAKEN = ("default_workers_per_model", "job_queue_size")
"""Keys that do less here than in TorchServe, so that the start names them too."""


PASSED = {
    "load_models": "no archive of the store is registered by itself: register each one once, with "
    "'POST /models?url=NAME.mar&initial_workers=1', and it is served at each start",
    "models": "workers and batches are said when a model is registered, or in its own folder",
    "default_startup_timeout": "a handler may take 120 s to load its model: say another time in its archive "
    "(startupTimeout in model-config.yaml) or when it is registered (startup_timeout)",
    "service_envelope": 'each archive names its envelope itself: write "envelope": "kserve" into "model" of its '
    "MAR-INF/MANIFEST.json",
    "workflow_store": "workflows are not served",
    "model_snapshot snapshot_store version tsConfigFile": "what is registered is kept in SCANCER_DATABASE",
    "unregister_model_timeout": "a model goes once its requests are answered, while the others answer",
    "max_response_size": "an answer may have any size",
    "limit_max_image_pixels": "pictures are always limited: set SCANCER_MAX_PIXELS",
    "decode_input_request": "raw bodies, forms and JSON are told apart by themselves",
    "default_service_handler": "each model's model.toml says what is done to a picture",
    "use_env_allowed_urls": "TS_ALLOWED_URLS counts with enable_envvars_config=true; or set SCANCER_ALLOWED_URLS",
    "enable_model_api": "users with the role `manage` register models",
    "install_py_dep_per_model": "packages are installed before the start",
    "ts_open_inference_protocol": "that protocol is always spoken",
    "disable_token_authorization token_expiration_min": "users with passwords take the place of tokens "
    "('flask users add NAME'), or SCANCER_AUTH=off",
    "keystore keystore_pass keystore_type": "a key is read from PEM files: 'openssl pkcs12 -in KEYSTORE -nodes' writes "
    "them; name them in certificate_file and private_key_file",
    "cors_allowed_origin cors_allowed_methods cors_allowed_headers": "the headers of CORS are for a proxy to add",
    "enable_metrics_api": "metrics are always there: SCANCER_METRICS_ADDRESS says for whom",
    "metrics_mode metrics_format": "metrics are always in Prometheus' format",
    "metrics_config metric_time_interval system_metrics_cmd": "the metrics are fixed, and read at a scrape",
    "disable_system_metrics model_metrics_auto_detect": "the metrics are fixed, and read at a scrape",
    "number_of_gpu": "models run on the CPU",
    "blacklist_env_vars": "a handler's process gets variables of Python, the locale, temporary files and threads "
    "alone; what else it needs goes into its archive",
    "number_of_netty_threads netty_client_threads": "a connection takes no thread; SCANCER_THREADS is how many "
    "requests a worker handles at a time",
    "prefer_direct_buffer use_native_io io_ratio vmargs": "there is no Java",
    "initial_worker_port initial_distribution_port": "workers need no ports",
    "async_logging cpp_log_config": "the log is JSON lines on standard error",
    "debug": "set SCANCER_LOG_LEVEL=DEBUG",
    "model_server_home": "the project's own folder is the home",
    "enable_grpc_ssl grpc_inference_address grpc_inference_port "
    "grpc_inference_max_connection_age_ms grpc_inference_max_connection_age_grace_ms "
    "grpc_management_address grpc_management_port "
    "grpc_management_max_connection_age_ms grpc_management_max_connection_age_grace_ms": "gRPC is not spoken",
}
"""Keys that are not taken, those of one kind together: why, or what to do instead."""
ADVICE = {key: advice for keys, advice in PASSED.items() for key in keys.split()}
HARMLESS = {
    "default_startup_timeout": "120",
    "service_envelope": "",
    "number_of_gpu": "0",
    **dict.fromkeys(("limit_max_image_pixels", "decode_input_request", "enable_model_api"), "true"),
    **dict.fromkeys(("ts_open_inference_protocol", "enable_metrics_api"), "true"),
    **dict.fromkeys(("install_py_dep_per_model", "debug"), "false"),
    **dict.fromkeys(("disable_system_metrics", "model_metrics_auto_detect"), "false"),
    **dict.fromkeys(("metrics_mode", "metrics_format"), "prometheus"),
}
"""The value of a key in `ADVICE` that changes nothing here, so that nothing has to be said."""
KEYS = (*TAKEN, FROM_ENVIRONMENT, *ADVICE)


class TorchServeConfig(NamedTuple):
    """What a `config.properties` comes to."""

    settings: dict[str, tuple[str, str]]
    """By the name of our setting, the key that gives it and its value as text."""
    remarks: list[str]
    """One for each key that counts in part or not at all."""


def read_config(path: Path, environ: Mapping[str, str]) -> TorchServeConfig:
    """Read a `config.properties`.

    `environ` gives `$$NAME$$` in a value, `TS_<KEY>` where the file has them read, and settings of ours. Raises
    `SettingsError` if the file cannot be read, or asks for TLS without the files that it takes.
    """
    try:
        properties = parse_properties(path.read_text("latin-1"))  # as Java reads it
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"SCANCER_TS_CONFIG={path} cannot be read: {reason}.") from error
    properties = {key: fill_in(key, value, environ) for key, value in properties.items()}
    if properties.get(FROM_ENVIRONMENT, "").lower() == "true":
        variables = {key: environ.get(f"TS_{key.upper()}") for key in KEYS}
        properties |= {key: text for key, text in variables.items() if text is not None}
    remarks = [remark for key, value in properties.items() if (remark := make_remark(key, value))]
    unused = find_unused_files(properties, environ)
    remarks += [f"{key}: no address begins with https://" for key in unused]
    if any(properties.get(key, "").startswith("https:") for key in ADDRESSES):
        plain = [key for key in ADDRESSES if properties.get(key, "").startswith("http:")]
        remarks += [f"{key}: TLS is spoken there too, as another address begins with https://" for key in plain]
    settings: dict[str, tuple[str, str]] = {}
    for key, names in TAKEN.items():
        if key in properties and key not in unused:
            settings |= {name: (key, text) for name in names if (text := translate(key, name, properties[key], path))}
    return TorchServeConfig(settings, remarks)


def parse_properties(text: str) -> dict[str, str]:
    r"""Read Java's format: `key=value`, `key: value` or `key value`, comments, lines that go on after a `\`, escapes.

    Raises `ValueError` if an escape is malformed.
    """
    properties = {}
    for line in _join_lines(text):
        found = re.fullmatch(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", line, re.DOTALL)
        assert found is not None, "every line matches"
        properties[_unescape(found[1])] = _unescape(found[2]).rstrip()
    return properties


def _join_lines(text: str) -> Iterator[str]:
    r"""Yield the lines that are neither empty nor comments, each joined with the lines that continue it."""
    begun = ""
    for natural in re.split(r"\r\n|\r|\n", text):
        line = natural.lstrip(" \t\f")
        if not begun and line[:1] in ("", "#", "!"):
            continue
        line = begun + line
        goes_on = (len(line) - len(line.rstrip("\\"))) % 2
        begun = line[:-1] if goes_on else ""
        if not goes_on:
            yield line
    if begun:
        yield begun


def _unescape(text: str) -> str:
    r"""Replace Java's escapes: `\t`, `\n`, `\r`, `\f`, `\uXXXX`; any other character stands for itself."""

    def replace(match: re.Match[str]) -> str:
        escaped = match[1]
        if escaped[0] != "u":
            return {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(escaped, escaped)
        if not re.fullmatch("u[0-9a-fA-F]{4}", escaped):
            raise ValueError(rf"\{escaped} is no character")
        return chr(int(escaped[1:], 16))

    return re.sub(r"\\(u.{0,4}|.)", replace, text, flags=re.DOTALL)


def find_unused_files(properties: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """Return the keys of TLS files that do not count, as no address is of TLS; if one is, files must be given."""
    files = [key for key in FILES if key in properties]
    secure = [key for key in ADDRESSES if properties.get(key, "").startswith("https://")]
    if not secure:
        return files
    if not files and "SCANCER_TLS_CERTIFICATE" not in environ:
        raise SettingsError(
            f"{secure[0]} begins with https://, which wants certificate_file and private_key_file, both PEM."
        )
    return []


def translate(key: str, setting: str, value: str, path: Path) -> str | None:
    """Write the value of a key as that of our setting; None leaves the setting as it is."""
    if key in ADDRESSES:
        found = re.fullmatch(r"(https?)://(\[[^]]*\]|[^:/]+)(?::([0-9]+))?/?", value)
        return f"{found[2]}:{found[3] or ADDRESSES[key][found[1]]}" if found else value
    if key in FILES:
        return str(path.parent / value)
    if (key, value) in (("default_workers_per_model", "0"), ("allowed_urls", "")):
        return None
    return value + "000" if setting.endswith("_ms") else value


def make_remark(key: str, value: str) -> str | None:
    """Say what to do about a key that counts in part or not at all; None if there is nothing to do."""
    if key in PARTLY_TAKEN and value != "0":
        return f"{key}: {TAKEN_REMARKS[key]}"
    if key in TAKEN or key == FROM_ENVIRONMENT:
        return None
    if key in ADVICE:
        return None if value.lower() == HARMLESS.get(key) else f"{key}: {ADVICE[key]}"
    close = get_close_matches(key, KEYS, 1)
    return f"{key}: TorchServe has no such key" + (f"; did you mean {close[0]}?" if close else "")


def fill_in(key: str, value: str, environ: Mapping[str, str]) -> str:
    """Replace each `$$NAME$$` in a value by that environment variable; raises `SettingsError` if it is not set."""

    def find(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise SettingsError(f"{key} names the environment variable {match[1]}, which is not set.")
        return environ[match[1]]

    return re.sub(r"\$\$([^$]{2,})\$\$", find, value)


def describe_keys() -> str:
    """Return all keys as a Markdown table: first those that are taken, then those that the start names in a warning."""
    rows = ["| key | here |", "| --- | --- |"]
    for key, names in TAKEN.items():
        settings = " and ".join(f"`SCANCER_{name.upper()}`" for name in names)
        remark = TAKEN_REMARKS.get(key, "")
        rows.append(f"| `{key}` | taken: {settings}{'; ' if remark else ''}{remark} |")
    rows.append(f"| `{FROM_ENVIRONMENT}` | taken: with `true`, variables `TS_<KEY>` win over the file |")
    for keys, advice in PASSED.items():
        named = keys.split()
        harmless = HARMLESS.get(named[0])
        unless = f" (not if it is `{harmless}`)" if harmless else ""
        rows.append(f"| {', '.join(f'`{key}`' for key in named)} | named: {advice}{unless} |")
    return "\n".join(rows) + "\n"
