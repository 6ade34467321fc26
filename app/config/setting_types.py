"""The kinds of setting: how each kind is declared, and how its text is read."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent
OWN_DATABASE = "sqlite"
"""Setting of the state store that is a SQLite file in the instance folder."""
OWN_STORE = "memory"
"""Setting of the counts of logins and predictions that are kept in the memory of the server's workers."""
NO_RATE = NO_HEADER = "off"
NO_ENVELOPE = "none"
PERCENT = "in a password, / ? # @ are written %2F %3F %23 %40"
"""What programs that read URLs disagree about: one takes the rest of a password for a port, and quotes it."""
HOST = r"(?:[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9a-fA-F:.]+\])"
DATABASE = re.compile(
    r"[a-z][a-z0-9_]*(\+[a-z0-9_]+)?://(/\S*|([^:/\s]*(:[^@\s]*)?@)?" + HOST + r"?(:(?P<port>[0-9]{1,5}))?(/[^@\s]*)?)"
)
STORE = re.compile(
    r"(redis\+unix:///[^?#@\s]+|rediss?://([^/?#@\s]*@)?"
    + HOST
    + r"(:(?P<port>[0-9]{1,5}))?(/[0-9]{0,5})?)(\?[^#@\s]+)?"
)
ENVELOPES = (NO_ENVELOPE, "body", "json", "kserve", "kservev2")
"""How a request's body may wrap the input of an archive's handler; see `app.handlers.worker.envelopes`."""

SERVICE_LINK = re.compile(
    r"SCANCER_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)=.*|PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://.*"
    r"|PORT_\d+_(TCP|UDP|SCTP)_(ADDR|PORT|PROTO)=.*)"
)
"""A variable and its value as Kubernetes gives it to the pods beside a Service called `scancer` or `scancer-…`."""


class Address(NamedTuple):
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def is_loopback_host(text: str) -> bool:
    """Whether a `Host` header names this machine itself, with any port or none."""
    return re.fullmatch(r"(?i:localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]*)?", text) is not None


def parse_address(text: str) -> Address:
    """Read `host:port` or `[ipv6]:port`, also behind `http://` as TorchServe writes it; raises `ValueError`."""
    found = re.fullmatch(r"(?:http://)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})/?", text)
    if not found or not 1 <= int(found[2]) <= 65535:
        raise ValueError(text)
    host = found[1].strip("[]")
    if host != found[1]:
        ipaddress.IPv6Address(host)  # raises a ValueError of its own
    return Address(host, int(found[2]))


def parse_path(text: str) -> Path:
    """Read a path, and no key that was put in its place; a relative one starts from the project's root."""
    if not text or "\0" in text or "\n" in text:
        raise ValueError(text)
    try:
        return PROJECT_ROOT / Path(text).expanduser()
    except RuntimeError as error:  # the home of a user who does not exist
        raise ValueError(text) from error


def parse_database(text: str) -> str:
    """Read the URL of a database, or the word that names the server's own SQLite file.

    The relative path of a SQLite file starts from the project's root, as others do: commands run anywhere.
    """
    if text == OWN_DATABASE:
        return text
    root = rf"\1{quote(str(PROJECT_ROOT))}/"
    return re.sub(r"^(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)(?=[^?])", root, check_url(DATABASE, text))


def parse_store(text: str) -> str:
    """Read the URL of a Redis, or the word that names the memory of the server's own workers."""
    return text if text == OWN_STORE else check_url(STORE, text)


def check_url(pattern: re.Pattern[str], text: str) -> str:
    """Return a URL that only one reading fits; raises `ValueError` for another, and for a port that is none."""
    found = pattern.fullmatch(text)
    if not found or not 1 <= int(found["port"] or 1) <= 65535:
        raise ValueError(text)
    text.encode()  # raises a ValueError of its own for bytes that are no UTF-8
    urlsplit(text)  # and for signs in a password that Unicode takes for a slash
    return text


def parse_rate(text: str) -> str:
    """Read a number in a span of time, such as `100/minute`, or the word for none."""
    found = re.fullmatch(r"([1-9][0-9]{0,8}) ?(?:/|per) ?(second|minute|hour|day)", text.lower())
    if not found and text.lower() != NO_RATE:
        raise ValueError(text)
    return f"{found[1]}/{found[2]}" if found else NO_RATE


def parse_header(text: str) -> str:
    """Read the name of a header of one's own, or the word for none; a proxy's other headers mean something else."""
    if text.lower() == NO_HEADER:
        return NO_HEADER
    if not re.fullmatch(r"X-[A-Za-z0-9-]{1,60}", text) or text.lower().startswith(("x-forwarded", "x-request")):
        raise ValueError(text)
    return text


def parse_patterns(text: str) -> tuple[str, ...]:
    """Read regular expressions of URLs, joined by commas; each must hold `://`."""
    patterns = tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        if patterns and all("://" in pattern and re.compile(pattern) for pattern in patterns):
            return patterns
    except re.error as error:
        raise ValueError(text) from error
    raise ValueError(text)


def parse_hosts(text: str) -> tuple[str, ...]:
    """Read names and addresses of hosts, joined by commas; return them in lower case, addresses in their short form."""
    hosts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not hosts or not all(re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|[0-9a-f:.]{2,45}", host) for host in hosts):
        raise ValueError(text)
    return tuple(str(ipaddress.IPv6Address(host)) if ":" in host else host for host in hosts)


def setting(default: Any, parse: Callable[[str], Any], allowed: str, help: str, is_secret: bool = False) -> Any:
    """Declare a setting, whose texts `parse` reads; it raises `ValueError` for one that is not `allowed`.

    Errors do not repeat the text of a secret one. `help` says for the document what the setting means.
    """
    return field(default=default, metadata={"parse": parse, "allowed": allowed, "help": help, "is_secret": is_secret})


def whole(default: int, bounds: tuple[int, int], help: str) -> Any:
    """Declare a setting that is a whole number within its bounds."""
    low, high = bounds

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return setting(default, parse, f"a whole number from {low} to {high}", help)


def choice(default: str, choices: tuple[str, ...], help: str) -> Any:
    """Declare a setting that is one of a few words, in any case."""

    def parse(text: str) -> str:
        for word in choices:
            if word.lower() == text.lower():
                return word
        raise ValueError(text)

    return setting(default, parse, f"{', '.join(choices[:-1])} or {choices[-1]}", help)


def address(port: int, help: str) -> Any:
    """Declare a setting that is an address, on loopback unless it is set."""
    return setting(Address("127.0.0.1", port), parse_address, "host:port, e.g. 0.0.0.0:8080", help)


def folder(name: str, help: str) -> Any:
    """Declare a setting that is a folder; `name` is that of its default in the project."""
    return setting(PROJECT_ROOT / name, parse_path, "a folder", help)


def file(help: str) -> Any:
    """Declare a setting that is a file, or None."""
    return setting(None, parse_path, "a file", help)
