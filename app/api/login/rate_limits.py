"""How often something may be done: counted by `limits`, in the workers' memory or in the Redis of many servers."""

import hashlib
import importlib.util
import logging
import math
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from app.config.setting_types import OWN_STORE
from app.errors import SettingsError

if TYPE_CHECKING:
    from limits.strategies import RateLimiter

log = logging.getLogger(__name__)

OWN_URL = "workers://"
REDIS_TIMEOUT_S = 0.3
REDIS_RETRY_S = 5.0
"""How long a Redis that cannot be used is not asked again; this server counts alone meanwhile."""


class RateLimits:
    """Counts by key, each for the time that a limit such as `10/minute` names.

    `limits` is imported with the views, for a command of ours needs it not.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self, store: str = OWN_STORE) -> None:
        self._store = store
        self._strategies: dict[str, RateLimiter] = {}
        self._lock = threading.Lock()
        self._retry_at = 0.0

    def find_wait_s(self, limit: str, *key: str) -> int:
        """Return the whole seconds until a key may be counted again; 0 if its limit is not reached."""
        return int(self._ask(lambda strategy: find_wait_s(strategy, limit, name_key(*key))))

    def count(self, limit: str, *key: str) -> bool:
        """Count once; return whether the limit allowed it."""
        return bool(self._ask(lambda strategy: strategy.hit(parse_limit(limit), name_key(*key))))

    def _ask(self, question: Any) -> Any:
        from limits.errors import StorageError

        if self._store != OWN_STORE and time.monotonic() >= self._retry_at:
            try:
                return question(self._find_strategy(self._store))
            except StorageError:  # its text names the address
                self._retry_at = time.monotonic() + REDIS_RETRY_S
                log.error("this server counts logins and predictions alone", extra={"reason": "Redis cannot be used"})
        return question(self._find_strategy(OWN_URL))

    def _find_strategy(self, url: str) -> "RateLimiter":
        with self._lock:
            if url not in self._strategies:
                self._strategies[url] = make_strategy(url)
            return self._strategies[url]


def make_strategy(url: str) -> "RateLimiter":
    """Make what counts in a store."""
    from limits.storage import storage_from_string
    from limits.strategies import FixedWindowRateLimiter

    from app.api.login import worker_storage  # noqa: F401  # it registers its scheme

    options: dict[str, Any] = {"wrap_exceptions": True}
    if url != OWN_URL:
        options |= {"socket_connect_timeout": REDIS_TIMEOUT_S, "socket_timeout": REDIS_TIMEOUT_S}
    return FixedWindowRateLimiter(storage_from_string(url, **options))


@lru_cache(maxsize=8)
def parse_limit(limit: str) -> Any:
    """Read a limit such as `10/minute`."""
    from limits import parse

    return parse(limit)


def name_key(*key: str) -> str:
    """Return what stands for a key in the store: neither names nor addresses lie there."""
    return hashlib.sha256("\0".join(key).encode(errors="surrogatepass")).hexdigest()


def find_wait_s(strategy: "RateLimiter", limit: str, key: str) -> int:
    """Return the whole seconds until a key may be counted again."""
    item = parse_limit(limit)
    if strategy.test(item, key):
        return 0
    return max(1, math.ceil(strategy.get_window_stats(item, key).reset_time - time.time()))


def check_store(store: str) -> None:
    """Raise `SettingsError` if Redis's package is not installed, or knows an option of `SCANCER_LIMITS_STORE` not."""
    if store == OWN_STORE:
        return
    if importlib.util.find_spec("redis") is None:
        raise SettingsError(
            "SCANCER_LIMITS_STORE needs Redis's package: pip install -r deploy/requirements_shared.txt."
        )
    import redis

    try:  # it connects to nothing
        redis.from_url(store.replace("redis+unix", "unix", 1)).connection_pool.make_connection()
    except (ValueError, TypeError, redis.RedisError):  # their texts may quote the URL
        raise SettingsError("SCANCER_LIMITS_STORE has an option after ? that Redis's package does not take.") from None
