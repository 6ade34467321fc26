"""Makes the text of `get_started/settings.md`: how settings are set, and a table for each group."""

from pathlib import Path
from typing import Any, NamedTuple

from app.config.setting_types import PROJECT_ROOT
from app.config.settings import PREFIX, SETTINGS

INTRODUCTION = """# Settings

A setting is an environment variable of the server's process:

- in a shell: `export SCANCER_WORKERS=2`
- in a systemd unit: `Environment=SCANCER_WORKERS=2`, or `EnvironmentFile=/etc/scancer/scancer.env` with such lines in
  the file, which has mode 640, since it may hold passwords
- for a container: `docker run --env SCANCER_WORKERS=2`, or `--env-file` with such lines in the file

A relative path starts from the project's folder.

The server reads its settings once, when it starts: a change wants a restart. A reload (`kill -HUP` to gunicorn) starts
new workers with the same settings. Each group says what counts without a restart.

A value that is not allowed stops the start. So does a variable `SCANCER_…` that is no setting, or is one no longer. The
message names the variable and says what is allowed or what takes its place.

Variables `OTEL_…` are OpenTelemetry's: [tracing.md](tracing.md).

gunicorn's own options are set by `GUNICORN_CMD_ARGS`, as in `GUNICORN_CMD_ARGS='--graceful-timeout 60'`:

- `--keep-alive` (5 s): how long an idle connection stays open
- `--timeout` (60 s): how long a worker may hang before it is replaced
- `--graceful-timeout` (30 s and `SCANCER_STOP_DELAY_S`): how long a stopping worker may take for what it has begun
"""
TABLE_HEAD = "| variable | default | allowed | meaning |\n| --- | --- | --- | --- |"
ALL_RESTART = "A change wants a restart."


class Group(NamedTuple):
    """Settings that belong together: the title of their table, their first field, and when a change counts."""

    title: str
    first: str
    advice: str = ALL_RESTART


GROUPS = (
    Group(
        "Addresses and TLS",
        "inference_address",
        f"{ALL_RESTART} A renewed certificate in the same files wants a reload.",
    ),
    Group(
        "Folders and database",
        "models",
        f"{ALL_RESTART} Models and users that change are noticed while the server runs.",
    ),
    Group(
        "Users",
        "auth",
        f"{ALL_RESTART} Users and passwords count at once, and within two seconds where a database keeps them: "
        "`flask users add NAME`.",
    ),
    Group("Models and programs", "allowed_urls", f"{ALL_RESTART} A newly trusted key counts for the next model."),
    Group("Limits of requests", "max_body_bytes"),
    Group("Times", "prediction_timeout_ms"),
    Group(
        "Workers", "workers", f"{ALL_RESTART} `kill -TTIN` to gunicorn adds a worker at once, `kill -TTOU` ends one."
    ),
    Group("Log", "log_level"),
)


def describe_settings() -> str:
    """Return the document as Markdown."""
    titles = {group.first: f"\n## {group.title}\n\n{group.advice}\n\n{TABLE_HEAD}\n" for group in GROUPS}
    rows = (titles.get(name, "") + describe_setting(item) for name, item in SETTINGS.items())
    return INTRODUCTION + "".join(rows)


def describe_setting(item: Any) -> str:
    """Return the row of a field of `Settings`."""
    default = item.default
    if isinstance(default, Path):
        default = f"{default.relative_to(PROJECT_ROOT)}/"
    if item.name == "workers":
        default = "number of cores"
    if default in (None, ()):
        default = "not set"
    return f"| `{PREFIX}{item.name.upper()}` | `{default}` | {item.metadata['allowed']} | {item.metadata['help']} |\n"
