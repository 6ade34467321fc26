"""What strangers without a password do to the others: `python -m benchmarks.floods [--seconds N] [NAME…]`.

Each flood of `FLOODS` runs by itself, then all of them together, for N seconds (20) each. Printed of each: the largest
resident memory of a worker, and the waits of those who ask meanwhile every 50 ms for health, metrics, the
models at the management address, and a prediction with a password.
"""

import asyncio
import multiprocessing
import resource
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from multiprocessing.synchronize import Event
from typing import NamedTuple

from benchmarks.costly_requests import PREDICT, Seen, print_table, watch
from benchmarks.server import MeasuredServer

BODY_BYTES = 31 * 1024 * 1024
AHEAD = 1000
numbers = count()


class Client(NamedTuple):
    """A stranger's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *parts: str | bytes) -> None:
        """Send lines of a head as text, or bytes as they are."""
        for part in parts:
            self.writer.write(part if isinstance(part, bytes) else part.replace("\n", "\r\n").encode())
            await self.writer.drain()


def make_head(method: str, path: str, length: int = 0) -> str:
    """Make the head of a request with a wrong password of its own."""
    wrong = b64encode(f"stranger-{next(numbers)}:a guess".encode()).decode()
    return f"{method} {path} HTTP/1.1\nHost: localhost\nAuthorization: Basic {wrong}\nContent-Length: {length}\n\n"


async def say_nothing(client: Client) -> None:
    """Wait until the server closes."""
    await client.reader.read()


async def dribble(client: Client) -> None:
    """Send a head of which a byte comes each second."""
    for letter in "GET /ping HTTP/1.1\nHost: localhost\nX-Long: " + "x" * 1000:
        await client.send(letter)
        await asyncio.sleep(1)


async def send_half(client: Client) -> None:
    """Send half of a body."""
    await client.send(make_head("PUT", PREDICT, BODY_BYTES), bytes(BODY_BYTES // 2))
    await client.reader.read()


async def guess(client: Client) -> None:
    """Try passwords."""
    while True:
        await client.send(make_head("GET", "/models"))
        await client.reader.readuntil(b"}\n")


async def guess_with_body(client: Client) -> None:
    """Try a password with a large body."""
    await client.send(make_head("PUT", PREDICT, BODY_BYTES), bytes(BODY_BYTES))
    await client.reader.read()


async def ask_ahead(client: Client) -> None:
    """Send many requests, and read no answer before."""
    await client.send("GET /nope HTTP/1.1\nHost: localhost\n\n" * AHEAD)
    for _ in range(AHEAD):
        await client.reader.readuntil(b"}\n")


FLOODS: dict[str, tuple[int, Callable[[Client], Awaitable[None]]]] = {
    "silent connections": (1300, say_nothing),
    "heads that come byte by byte": (1300, dribble),
    "halves of bodies": (24, send_half),
    "guesses": (12, guess),
    "guesses with 31 MiB": (16, guess_with_body),
    "requests sent ahead": (200, ask_ahead),
}


async def repeat(port: int, act: Callable[[Client], Awaitable[None]], is_over: Event, seen: Counter[str]) -> None:
    """Act on one connection after the other until it is over."""
    while not is_over.is_set():
        try:
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
        except OSError:
            seen["refused"] += 1
            await asyncio.sleep(0.1)
            continue
        seen["connections"] += 1
        try:
            await act(client)
            seen["played to the end"] += 1
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            seen["broken off"] += 1
            await asyncio.sleep(0.01)
        finally:
            client.writer.transport.abort()


async def flood(port: int, names: Sequence[str], is_over: Event) -> Counter[str]:
    """Run floods together until it is over; return what came of their connections. Raises what a stranger raises."""
    seen = Counter[str]()
    acts = [act for name in names for number, act in [FLOODS[name]] for _ in range(number)]
    tasks = [asyncio.create_task(repeat(port, act, is_over, seen)) for act in acts]
    while not is_over.is_set():
        await asyncio.sleep(0.1)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    return seen


def run_flood(port: int, names: Sequence[str], is_over: Event, results: "multiprocessing.Queue[Counter[str]]") -> None:
    """Run floods in a process of their own, with as many descriptors as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results.put(asyncio.run(flood(port, names, is_over)))


def run(server: MeasuredServer, names: Sequence[str], seconds: float) -> tuple[Counter[str], Seen]:
    """Run floods together; return what came of their connections, and what others saw. Raises `RuntimeError` if the
    strangers failed or had not all connected.
    """
    results: multiprocessing.Queue[Counter[str]] = multiprocessing.Queue()
    is_over, seen = multiprocessing.Event(), Seen()
    process = multiprocessing.Process(target=run_flood, args=[server.ports[0], names, is_over, results])
    process.start()
    timer = threading.Timer(seconds, is_over.set)
    timer.start()
    watch(server, is_over, seen)
    process.join()
    found = Counter[str]() if process.exitcode else results.get()
    if found["connections"] < sum(FLOODS[name][0] for name in names):
        raise RuntimeError(f"there was no flood: {dict(found)}, exit code {process.exitcode}")
    return found, seen


def main() -> None:
    """Print a table."""
    print_table(__doc__, [*FLOODS], "guesses", run)


if __name__ == "__main__":
    main()
