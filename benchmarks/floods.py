"""What strangers do to the others who know no password: `python -m benchmarks.floods [--seconds N] [NAME…]`.

Each flood of `FLOODS` runs by itself, then all of them together, for N seconds (20) each. Printed of each: the largest
resident memory of a worker, and the waits of those who ask meanwhile every 50 ms for health, metrics, the
models at the management address, and a prediction with a password.
"""

import asyncio
import multiprocessing
import resource
import threading
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from multiprocessing.synchronize import Event
from typing import NamedTuple

from benchmarks.costly_requests import LOGINS, MEMORY_BYTES, PREDICT, Seen, describe_waits, watch
from benchmarks.scale import choose, make_parser
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


async def repeat(port: int, act: Callable[[Client], Awaitable[None]], is_over: Event) -> None:
    """Act on one connection after the other until it is over."""
    while not is_over.is_set():
        try:
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
        except OSError:
            await asyncio.sleep(0.1)
            continue
        try:
            await act(client)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await asyncio.sleep(0.01)
        finally:
            client.writer.transport.abort()


async def flood(port: int, names: Sequence[str], is_over: Event) -> None:
    """Run floods together until it is over."""
    acts = [act for name in names for number, act in [FLOODS[name]] for _ in range(number)]
    tasks = [asyncio.create_task(repeat(port, act, is_over)) for act in acts]
    while not is_over.is_set():
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()


def run_flood(port: int, names: Sequence[str], is_over: Event) -> None:
    """Run floods in a process of their own, with as many descriptors as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(flood(port, names, is_over))


def run(server: MeasuredServer, names: Sequence[str], seconds: float) -> Seen:
    """Run floods together; return what others saw."""
    is_over, seen = multiprocessing.Event(), Seen()
    process = multiprocessing.Process(target=run_flood, args=[server.ports[0], names, is_over])
    process.start()
    timer = threading.Timer(seconds, is_over.set)
    timer.start()
    watch(server, is_over, seen)
    process.join()
    return seen


def main() -> None:
    """Print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=choose(20.0, 2.0))
    parser.add_argument("names", nargs="*", default=choose([*FLOODS], ["guesses"]))
    arguments = parser.parse_args()
    runs = {name: [name] for name in arguments.names}
    runs |= {"together": arguments.names} if len(runs) > 1 else {}
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))  # the server has it too
    with MeasuredServer(workers="2") as server:
        for _ in range(LOGINS):
            server.request("GET", "/models")
        print("| flood | memory of a worker | waits: half, 95 %, all within | other answers |")
        print("| --- | --- | --- | --- |")
        for name, names in runs.items():
            seen = run(server, names, arguments.seconds)
            print(f"| {name} | {describe_waits(seen)} |", flush=True)


if __name__ == "__main__":
    main()
