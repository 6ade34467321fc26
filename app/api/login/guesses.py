"""How often a password may be guessed: failed logins, counted by name and by address."""

import ipaddress
import logging
import math
import time
from functools import lru_cache
from typing import NamedTuple

from app.api.login.rate_limits import RateLimits
from app.processes.shared_table import FAILURES, SharedTable

log = logging.getLogger(__name__)

NAME_LIMIT, ADDRESS_LIMIT = "10/minute", "30/minute"
"""Failed logins of one name, and of one address; at ten a minute a guesser needs years for a thousandth of a wordlist
of 14 million."""
HOME_S = 24 * 3600
"""How long an address is known as one from which a name has come in."""
WRONG_TOKENS, TOKENS_S = 30, 60.0
"""Wrong tokens that an address may send in so many seconds."""
EVERYWHERE = ""


class Standing(NamedTuple):
    """What is known of a name and an address before a password is looked at.

    Attributes:
        wait_s: seconds until they may try again, as far as the caller is told; 0 if they may now.
        is_spent: whether the password of a name that exists is not looked at either.
    """

    wait_s: int
    is_spent: bool


class Guesses:
    """Counts failed logins.

    A name is counted apart at each address from which it came in lately, so that nobody can lock a user out from
    elsewhere. An address whose limit is reached may have many users behind it: one who exists is still let in by the
    right password, until the failures of such names alone reach the limit. Wrong ones all get the same answer, so it
    does not tell which names exist.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, limits: RateLimits, homes: SharedTable) -> None:
        self._limits, self._homes = limits, homes

    def look_up(self, name: str, address: str) -> Standing:
        """Return how a name and an address stand."""
        group = group_address(address)
        by_name = self._limits.find_wait_s(NAME_LIMIT, "name", name, self._find_home(name, group))
        by_address = self._limits.find_wait_s(ADDRESS_LIMIT, "address", group)
        known = by_address and self._limits.find_wait_s(ADDRESS_LIMIT, "names that exist", group)
        return Standing(max(by_name, by_address), bool(by_name or known))

    def count_failure(self, name: str, address: str, exists: bool) -> None:
        """Count a failed login, and log a limit that is reached by it."""
        group = group_address(address)
        keys = [(NAME_LIMIT, "name", name, self._find_home(name, group)), (ADDRESS_LIMIT, "address", group)]
        if exists:
            keys.append((ADDRESS_LIMIT, "names that exist", group))
        for limit, what, *key in keys:
            if self._limits.count(limit, what, *key) and self._limits.find_wait_s(limit, what, *key):
                log.warning("logins are limited", extra={"reason": f"{limit} failed of one {what}"})

    def count_wrong_token(self, text: str, address: str) -> int:
        """Count a wrong token of an address, and one that comes again once; return the seconds until it may send more.

        Tokens are counted apart, by each server alone: nobody can guess one, and it costs nothing to send wrong ones.
        """
        tries, mark = FAILURES.hash("tokens", group_address(address)), FAILURES.hash("wrong token", text)
        if not find_token_wait_s(tries) and not FAILURES.has(mark):
            FAILURES.put(mark, TOKENS_S)
            if FAILURES.add(tries, 1, TOKENS_S) == WRONG_TOKENS:
                log.warning(
                    "logins are limited", extra={"reason": f"{WRONG_TOKENS}/minute wrong tokens of one address"}
                )
        return find_token_wait_s(tries)

    def note_success(self, name: str, address: str) -> None:
        """Note that a name has come in from an address."""
        self._homes.put(self._homes.hash("home", name, group_address(address)), HOME_S)

    def _find_home(self, name: str, group: str) -> str:
        return group if self._homes.has(self._homes.hash("home", name, group)) else EVERYWHERE


def find_token_wait_s(tries: bytes) -> int:
    """Return the seconds until an address may send another wrong token; 0 if it may now. `tries` is its key."""
    kept = FAILURES.get(tries)
    if kept is None or not kept.is_current or kept.number < WRONG_TOKENS:
        return 0
    return math.ceil(kept.until - time.monotonic()) or 1


@lru_cache(maxsize=1024)
def group_address(address: str) -> str:
    """Return the addresses that one caller may have, as one text: of IPv6 that is a network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # none, behind a Unix socket
        return address
    if parsed.version == 4:
        return str(parsed)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or ipaddress.ip_network((parsed, 64), strict=False))
