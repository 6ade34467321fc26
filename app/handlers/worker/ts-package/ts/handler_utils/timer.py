"""How long a handler's steps take."""

import functools
import time
from collections.abc import Callable
from typing import Any


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a method of a handler add its time to the handler's metrics, under the method's name."""

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(self, *args, **kwargs)
        context = getattr(self, "context", None)
        if context is not None:
            context.metrics.add_time(f"ts_handler_{function.__name__}", (time.perf_counter() - started) * 1000)
        return result

    return call
