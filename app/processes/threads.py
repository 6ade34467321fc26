"""Threads that have nothing in common but what they post to one thread."""

import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any


def start_thread(name: str, call: Callable[[], None]) -> bool:
    """Run `call` in a thread of its own; return False if the system has none to give."""
    try:
        threading.Thread(target=call, name=name, daemon=True).start()
    except RuntimeError:  # memory, or the limit of threads
        return False
    return True


class Inbox:
    """Calls that any thread posts, and that one thread makes when it comes round to them.

    Thread safety: `post` may be called from any thread, `work_off` from one.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def post(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have the inbox's thread make a call."""
        self._calls.put(partial(call, *arguments))

    def work_off(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for a call, and make all that were posted."""
        try:
            self._calls.get(timeout=timeout_s)()
            while True:
                self._calls.get_nowait()()
        except Empty:
            return


class Lane:
    """Makes calls one after the other, in a thread that ends when there is nothing left to do.

    Thread safety: `run` is for one thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_running = False

    def run(self, call: Callable[[], None]) -> bool:
        """Make a call when those before it have ended; return False if the system has no thread to give."""
        self._calls.put(call)
        with self._lock:
            if not self._is_running:
                self._is_running = start_thread(self._name, self._run)
            if not self._is_running:
                self._calls.get()
            return self._is_running

    def _run(self) -> None:
        while True:
            self._calls.get()()
            with self._lock:
                if self._calls.empty():
                    self._is_running = False
                    return
