"""The log on stderr: an event a line, from closed sets of fields; never pixels, file names or passwords."""

import json
import logging
import logging.config
import re
import threading
import time
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any

FIELDS = (
    *("request_id", "trace_id", "user", "method", "rule", "status", "model", "version"),
    *("outcome", "images", "bytes", "sha256", "ms", "reason"),
    *("client", "event", "action", "subject"),
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


class TextFormatter(logging.Formatter):
    """Formats a record for a person: time, level, message, then its fields; in ASCII, so no value can forge a line."""

    PLAIN = re.compile(r"[A-Za-z0-9_.:/<>@*+-]+")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it a traceback, indented, if there is one."""
        given = record.__dict__
        time_ = f"{write_second(int(record.created))}.{int(record.msecs):03d}Z"
        words = [time_, f"{record.levelname:<7}", json.dumps(record.getMessage())[1:-1]]
        for name in FIELDS:
            if name in given:
                text = str(given[name])
                words.append(f"{name}={text if self.PLAIN.fullmatch(text) else json.dumps(text)}")
        lines = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        return "\n    ".join([" ".join(words), *(json.dumps(line)[1:-1] for line in lines)])


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


def log_thread_fault(fault: threading.ExceptHookArgs) -> None:
    """Log the fault that ended a thread, where Python would print a traceback; for `threading.excepthook`."""
    if isinstance(fault.exc_value, Exception):
        name = fault.thread.name if fault.thread is not None else "unknown"
        reason = f"{describe_fault(fault.exc_value)}, in the thread {name}"
        logging.getLogger("app.threads").error("a fault ended a thread", extra={"reason": reason})


def describe_fault(error: Exception) -> str:
    """Return an error's kind and places, without its message, which may quote a caller."""
    places = [f"{Path(frame.f_code.co_filename).name}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return f"{type(error).__name__} at {' '.join(places)}"


def make_log_config(level: str, shape: str = "json") -> dict[str, Any]:
    """Make the argument of `logging.config.dictConfig`: gunicorn's own lines take the same shape as ours.

    `shape` is a value of `SCANCER_LOG_FORMAT`.
    """
    own = {"level": level, "handlers": ["stderr"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "app.logs.JSONFormatter"}, "text": {"()": "app.logs.TextFormatter"}},
        "filters": {"callers text": {"()": "app.logs.CallersTextFilter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": shape}},
        "loggers": {
            "app": own,
            "app.audit": {**own, "level": "INFO"},
            "gunicorn.error": {**own, "filters": ["callers text"]},
            # A collector that is away is told once for each batch that is lost, not for each try.
            "opentelemetry.exporter": {"level": "ERROR"},
            "py.warnings": own,
            # The development server's own lines hold paths as they came; ours hold route rules.
            "werkzeug": {**own, "level": "WARNING"},
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
    }


def configure_logs(level: str, shape: str) -> None:
    """Have this process log in a shape, lines of a level or above, and the faults of its threads too."""
    logging.config.dictConfig(make_log_config(level, shape))
    threading.excepthook = log_thread_fault
