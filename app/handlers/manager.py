"""The process that holds all pools of a server: `python -m app.handlers.manager FOLDER LOG_LEVEL`.

There is one a server, started by whichever HTTP worker needs it first, and kept by a lock file. It listens on a Unix
socket in FOLDER, and ends a while after the last HTTP worker has gone.
"""

import asyncio
import fcntl
import logging
import logging.config
import os
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.handlers.archive import HandlerArchive
from app.handlers.frames import SOCKET_FILE, BrokenMessageError, Message, encode, read_message
from app.handlers.pool import Pool
from app.handlers.slots import NoWorkerError, StartError
from app.logs import make_log_config

log = logging.getLogger(__name__)

LOCK_FILE = "lock"
BUFFER_BYTES = 1024 * 1024
LINGER_S = 5.0
"""How long it stays without an HTTP worker: one that died is replaced within that."""
Reply = tuple[dict[str, Any], list[bytes]]
NO_WORKER: dict[str, Any] = {"no_worker": True}


class Manager:
    """Answers HTTP workers: a message each way, then the next."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._registering: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._connections = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._operations: dict[str, Callable[[Message], Awaitable[Reply]]] = {
            "attach": self._attach,
            "register": self._register,
            "scale": self._scale,
            "describe": self._describe,
            "unregister": self._unregister,
        }

    async def serve(self, path: Path) -> None:
        """Listen until nobody has been connected for a while, or until told to end."""
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._talk, path, limit=BUFFER_BYTES, backlog=512)
        path.chmod(0o600)
        leaving = asyncio.create_task(self._wait_until_left())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.cancel)
        await asyncio.wait((leaving,))
        server.close()
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    async def _wait_until_left(self) -> None:
        while True:
            await self._is_empty.wait()
            await asyncio.sleep(LINGER_S)
            if self._is_empty.is_set():
                return

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        self._is_empty.clear()
        try:
            while True:
                message = await read_message(reader)
                header, blobs = await self._reply(message, reader)
                writer.write(encode(header, blobs))
                await writer.drain()
        except (EOFError, OSError, BrokenMessageError):  # the HTTP worker, or its caller, has gone
            pass
        except asyncio.CancelledError:  # this process ends; Python 3.11 would log it as a fault
            pass
        finally:
            writer.close()
            self._connections -= 1
            if not self._connections:
                self._is_empty.set()

    async def _reply(self, message: Message, reader: asyncio.StreamReader) -> Reply:
        operation = message.header.get("operation")
        if operation == "predict":
            return await self._predict(message, reader)
        return await self._operations[str(operation)](message)

    async def _attach(self, _: Message) -> Reply:
        """A connection that is held open, to say that an HTTP worker is there."""
        return {}, []

    async def _register(self, message: Message) -> Reply:
        """Make a model's pool, unless another HTTP worker had it made; answers when its workers are ready."""
        header = message.header
        async with self._registering[header["key"]]:
            if header["key"] in self._pools:
                return {}, []
            archive = HandlerArchive.from_json(header["archive"])
            pool = Pool(archive, header["memory_bytes"], header["threads"])
            try:
                await pool.scale(archive.limits)
            except StartError as error:
                await pool.close()
                return {"error": str(error)}, []
            self._pools[header["key"]] = pool
        return {}, []

    async def _scale(self, message: Message) -> Reply:
        pool = self._pools.get(message.header["key"])
        if pool is None:
            return NO_WORKER, []
        try:
            await pool.scale(replace(pool.limits, **message.header["limits"]))
        except StartError as error:
            return {"error": str(error)}, []
        return {}, []

    async def _describe(self, message: Message) -> Reply:
        pool = self._pools.get(message.header["key"])
        return (NO_WORKER if pool is None else pool.describe()), []

    async def _unregister(self, message: Message) -> Reply:
        pool = self._pools.pop(message.header["key"], None)
        if pool is not None:
            await pool.close()
        return {}, []

    async def _predict(self, message: Message, reader: asyncio.StreamReader) -> Reply:
        """Answer one request; raises `EOFError` if its caller goes meanwhile."""
        pool = self._pools.get(message.header["key"])
        if pool is None:
            return {"unknown": True}, []
        try:
            job = pool.submit(message.header["request"], message.blobs)
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


def main() -> int:
    """Hold the lock and serve; end at once if another process has it."""
    folder = Path(sys.argv[1])
    logging.config.dictConfig(make_log_config(sys.argv[2]))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    asyncio.run(Manager().serve(folder / SOCKET_FILE))
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
