"""Shows on standard error how far a long command is, how fast it goes, and when it will end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click


class Pace:
    """Counts what is done of `length`, and how fast that goes."""

    def __init__(self, length: int) -> None:
        self.length, self.done, self._started = length, 0, time.monotonic()

    @property
    def per_s(self) -> float:
        """How many were done in a second."""
        return self.done / max(time.monotonic() - self._started, 1e-3)

    def add(self, count: int) -> bool:
        """Count what was done; return whether one more tenth of the whole is."""
        before, self.done = self.done, self.done + count
        return before * 10 // self.length != self.done * 10 // self.length


@contextmanager
def show_progress(label: str, length: int, stream: TextIO) -> Iterator[Callable[[int], None]]:
    """Show the progress over `length` pictures: a bar on a terminal, elsewhere a line for each tenth."""
    pace = Pace(length)

    def write_line(count: int) -> None:
        if pace.add(count):
            left_s = (length - pace.done) / pace.per_s
            told = f"{label}: {pace.done} of {length} pictures, {pace.per_s:.0f}/s, {left_s:.0f} s left"
            click.echo(told, file=stream)

    if not stream.isatty():
        yield write_line
        return
    with click.progressbar(
        range(length), label=label, file=stream, show_pos=True, item_show_func=lambda _: f"{pace.per_s:.0f}/s"
    ) as bar:

        def move_bar(count: int) -> None:
            pace.add(count)
            bar.update(count)

        yield move_bar
