"""JSON lines on stderr: one object a line, from closed sets of fields; never pixels, file names or passwords."""

import json
import logging
import logging.config
import time
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any

FIELDS = (
    *("request_id", "trace_id", "user", "method", "rule", "status", "model", "version"),
    *("outcome", "images", "bytes", "sha256", "ms", "reason"),
)
"""What a line may carry besides time, level, logger and message; anything else given as `extra` is dropped."""


class JSONFormatter(logging.Formatter):
    """Formats a record as one line of ASCII JSON, so that no value can break or forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        given = record.__dict__
        line: dict[str, Any] = {
            "time": f"{write_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: given[name] for name in FIELDS if name in given}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


@lru_cache(maxsize=1)
def write_second(second: int) -> str:
    """A second since 1970, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class CallersTextFilter(logging.Filter):
    """Takes what a caller sent out of gunicorn's own lines: it quotes request lines, header names and addresses."""

    QUOTING = ("Invalid request", "Error handling request", "Ignored", "Socket error", "Error parsing")

    def filter(self, record: logging.LogRecord) -> bool:
        """Cut such a line down to its first words, without values and without a traceback."""
        for words in self.QUOTING:
            if str(record.msg).startswith(words):
                record.msg, record.args, record.exc_info = words, None, None
        return True


def describe_fault(error: Exception) -> str:
    """Return an error's kind and places, without its message, which may quote a caller."""
    places = [f"{Path(frame.f_code.co_filename).name}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return f"{type(error).__name__} at {' '.join(places)}"


def make_log_config(level: str) -> dict[str, Any]:
    """Make the argument of `logging.config.dictConfig`: gunicorn's own lines take the same shape as ours."""
    own = {"level": level, "handlers": ["stderr"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "app.logs.JSONFormatter"}},
        "filters": {"callers text": {"()": "app.logs.CallersTextFilter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "loggers": {
            "app": own,
            "gunicorn.error": {**own, "filters": ["callers text"]},
            # A collector that is away is told once for each batch that is lost, not for each try.
            "opentelemetry.exporter": {"level": "ERROR"},
            "py.warnings": own,
            # The development server's own lines hold paths as they came; ours hold route rules.
            "werkzeug": {**own, "level": "WARNING"},
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
    }


def configure_logs(level: str) -> None:
    """Have this process log in that shape, lines of a level or above."""
    logging.config.dictConfig(make_log_config(level))
