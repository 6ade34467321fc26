"""What `flask doctor` finds: one line of a report."""

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        level: `fault` for what keeps the service from working or from being safe.
        subject: what was looked at, in a word or two.
        text: what is so.
        advice: what to do; empty where nothing is to be done.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:8}{self.subject}: {self.text}{f'. {self.advice}' if self.advice else ''}"

    def to_json(self) -> dict[str, str]:
        """As JSON, with the same names."""
        return asdict(self)


def ok(subject: str, text: str) -> Finding:
    """Nothing is to be done."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """It works, but not as well as it could, or not for long."""
    return Finding("warning", subject, text, advice)


def fault(subject: str, text: str, advice: str) -> Finding:
    """It does not work, or is not safe."""
    return Finding("fault", subject, text, advice)
