"""Threads that ask a server until they are stopped."""

import threading
from typing import Self


class Callers:
    """So many callers: entering starts them, leaving ends them. A subclass says in `ask` what each does until then."""

    def __init__(self, count: int) -> None:
        self.stops = threading.Event()
        self._threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stops.set()
        for thread in self._threads:
            thread.join()

    def ask(self, number: int) -> None:
        """Ask until `stops` is set; `number` tells the callers apart."""
        raise NotImplementedError
