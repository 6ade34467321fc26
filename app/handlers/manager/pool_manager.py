"""The process that holds all pools of a server: `python -m app.handlers.manager.pool_manager FOLDER LOG_LEVEL`.

The HTTP worker that needs it first starts it; a lock in FOLDER keeps it the only one of the server. It listens on a
socket in FOLDER, and ends when gunicorn does, or a while after the last HTTP worker has gone.
"""

import asyncio
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.errors import ModelFolderError
from app.handlers.handler_answers import PART, Answer
from app.handlers.handler_archive import HandlerArchive
from app.handlers.manager.pool import Pool
from app.handlers.manager.slots import NoWorkerError
from app.handlers.manager_folder import take_lock
from app.logs import configure_logs
from app.processes.frames import SOCKET_FILE, BrokenMessageError, Message, encode, read_message

BUFFER_BYTES = 1024 * 1024
LINGER_S = 10.0
"""How long a pool, and this process, stay without an HTTP worker: one that died is replaced within that."""
Header = dict[str, Any]
Reply = tuple[Header, list[bytes]]
NO_WORKER: Header = {"no_worker": True}


class Manager:
    """Answers HTTP workers: a message each way, then the next.

    Each HTTP worker has a name and a connection that it keeps open. A pool is held by those that registered it, and
    ends with the last one that lets it go; one that dies is replaced by another, which finds the pool as it was.
    """

    def __init__(self, linger_s: float = LINGER_S) -> None:
        self._linger_s = linger_s
        self._pools: dict[str, Pool] = {}
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        self._starts: dict[str, asyncio.Task[str | None]] = {}
        self._attached: set[str] = set()
        self._sweeps: set[asyncio.Task[None]] = set()
        self._is_told_to_end = asyncio.Event()
        self._operations: dict[str, Callable[[Header], Awaitable[Header]]] = {
            "register": self._register,
            "restore": self._restore,
            "scale": self._scale,
            "describe": self._describe,
            "metrics": self._list_metrics,
            "unregister": self._unregister,
            "stop": self._stop,
        }

    async def serve(self, path: Path) -> None:
        """Listen until nobody has been attached for a while, or until told to end."""
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._talk, path, limit=BUFFER_BYTES, backlog=512)
        path.chmod(0o600)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._end_when_left)
        self._sweep_later()  # whoever started this process may be gone by now
        await self._is_told_to_end.wait()
        server.close()
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    def _end_when_left(self) -> None:
        """End without lingering: who stops a service may tell all its processes at once, and requests are in work."""
        self._linger_s = 0.0
        self._sweep_later()

    def _leave(self, client: str) -> None:
        self._attached.discard(client)
        for holders in self._holders.values():
            holders.discard(client)
        if not self._is_told_to_end.is_set():
            self._sweep_later()

    def _sweep_later(self) -> None:
        sweep = asyncio.create_task(self._sweep())
        self._sweeps.add(sweep)
        sweep.add_done_callback(self._sweeps.discard)

    async def _sweep(self) -> None:
        """End, after a while, the pools that nobody holds; and this process, if nobody is attached any more."""
        await asyncio.sleep(self._linger_s)
        if not self._attached:
            self._is_told_to_end.set()
        for key in [key for key, holders in self._holders.items() if not holders]:
            await self._end_pool(key)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = None
        try:
            while True:
                message = await read_message(reader)
                operation = message.header["operation"]
                reply: Reply = {}, []
                if operation == "predict":
                    reply = await self._predict(message, reader, writer)
                elif operation == "attach":
                    client = message.header["client"]
                    self._attached.add(client)
                else:
                    reply = await self._operations[operation](message.header), []
                writer.write(encode(*reply))
                await writer.drain()
        except (EOFError, OSError, BrokenMessageError, asyncio.CancelledError):
            pass  # the HTTP worker or its caller has gone, or this process ends: Python 3.11 would log that as a fault
        finally:
            writer.close()
            if client is not None:
                self._leave(client)

    async def _stop(self, _: Header) -> Header:
        self._is_told_to_end.set()
        return {}

    async def _register(self, order: Header) -> Header:
        """Hold a model's pool, made if need be; answers when its workers are ready."""
        self._hold(order)
        fault = await asyncio.shield(self._starts[order["key"]])  # all who ask get the same answer
        return {} if fault is None else {"error": fault}

    async def _restore(self, message: Header) -> Header:
        """Hold pools that an earlier manager had; answers at once, for requests may wait in their lines already."""
        for order in message["orders"]:
            self._hold(order, is_restored=True)
        return {}

    def _hold(self, order: Header, is_restored: bool = False) -> None:
        key = order["key"]
        self._holders[key].add(order["client"])
        if key not in self._pools:
            pool = Pool(HandlerArchive.from_json(order["archive"]), order["memory_bytes"], order["threads"])
            self._pools[key] = pool
            self._starts[key] = asyncio.create_task(self._start(key, pool, is_restored))

    async def _start(self, key: str, pool: Pool, is_restored: bool) -> str | None:
        """Start a pool's workers; return why they cannot be started. One that was served before tries on."""
        try:
            await pool.scale(pool.limits)
        except ModelFolderError as error:
            if is_restored:
                return None
            if self._pools.get(key) is pool:
                await self._end_pool(key)
            return error.message
        return None

    async def _end_pool(self, key: str) -> None:
        self._holders.pop(key, None)
        self._starts.pop(key, None)
        pool = self._pools.pop(key, None)
        if pool is not None:
            await pool.close()

    async def _scale(self, message: Header) -> Header:
        pool = self._pools.get(message["key"])
        if pool is None:
            return NO_WORKER
        try:
            await pool.scale(replace(pool.limits, **message["limits"]))
        except ModelFolderError as error:
            return {"error": error.message}
        return {}

    async def _describe(self, message: Header) -> Header:
        pool = self._pools.get(message["key"])
        return NO_WORKER if pool is None else pool.describe()

    async def _list_metrics(self, _: Header) -> Header:
        return {"series": [series for pool in self._pools.values() for series in pool.metrics.list_series()]}

    async def _unregister(self, message: Header) -> Header:
        """Let a pool go; it ends when all have who held it, and each does so when its own requests are answered."""
        holders = self._holders[message["key"]]
        holders.discard(message["client"])
        if not holders:
            await self._end_pool(message["key"])
        return {}

    async def _predict(self, message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Reply:
        """Answer one request, parts of its answer at once; raises `EOFError` if its caller goes meanwhile."""
        pool = self._pools.get(message.header["key"])
        if pool is None:
            return {"unknown": True}, []

        def send_part(part: Answer) -> None:
            writer.write(encode({PART: part[0]}, [part[1]]))

        try:
            job = pool.submit(message.header["request"], message.blobs, send_part)
        except NoWorkerError:
            return NO_WORKER, []
        going = asyncio.create_task(reader.read(1))  # nothing is sent before the answer has come
        try:
            await asyncio.wait((job.answer, going), return_when=asyncio.FIRST_COMPLETED)
            if going.done():
                pool.forget(job)
                raise EOFError
            header, body = job.answer.result()
        except NoWorkerError:
            return NO_WORKER, []
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)  # only one may wait for the reader at a time
            job.answer.cancel()
        return {"answer": header}, [body]


def main() -> None:
    """Hold the lock and serve; end at once if another process has it."""
    folder = Path(sys.argv[1])
    configure_logs(*sys.argv[2:4])
    if take_lock(folder) is not None:
        asyncio.run(Manager().serve(folder / SOCKET_FILE))
        shutil.rmtree(folder, ignore_errors=True)  # before the lock goes, so that it is no other manager's


if __name__ == "__main__":
    main()
