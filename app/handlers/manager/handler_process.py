"""The pool's side of a worker process: start it, hand it batches, end it."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from app.config.setting_types import PROJECT_ROOT
from app.handlers.handler_archive import HandlerArchive
from app.processes.confinement import describe_exit, make_environment
from app.processes.frames import MAX_MESSAGE_BYTES, PARTS, BrokenMessageError, Message, encode, read_message

BUFFER_BYTES = 1024 * 1024
END_S = 1.0
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
OnPart = Callable[[int, dict[str, Any], bytes], None]
"""Called with the place of a request in its batch, and header and body of a part of its answer."""
OnParts = Callable[[Message], None]


class HandlerLostError(Exception):
    """The process could not load the handler, died, took too long, or said what is no answer; it is ended."""


class HandlerUnaskedError(HandlerLostError):
    """The process died before it had read what it was sent: the handler knows nothing of it."""


class HandlerProcess:
    """A process with a loaded handler; `in_force` is what it is confined by, in words."""

    def __init__(self, archive: HandlerArchive, memory_bytes: int, threads: int) -> None:
        self._archive = archive
        self._memory_bytes = memory_bytes
        self._threads = threads
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._is_ended = False
        self.process_id: int | None = None
        self.started_at = time.time()
        self.in_force: list[str] = []

    @property
    def is_gone(self) -> bool:
        """Whether the process has closed its end, which is known before the process has ended."""
        return self._reader is not None and self._reader.at_eof()

    async def start(self) -> None:
        """Start the process and wait until the handler is loaded; raises `HandlerLostError` with the reason if not."""
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=BUFFER_BYTES)
                self._process = await self._spawn(theirs)
                self.process_id = self._process.pid
        except OSError as error:
            await self.end()
            raise HandlerLostError(f"no process can be started: {error.strerror}") from error
        order = {"archive": self._archive.to_json(), "memory_bytes": self._memory_bytes}
        reply, _ = await self._ask(order, (), self._archive.limits.startup_timeout_s, lambda _: None)
        if "error" in reply:
            await self.end()
            raise HandlerLostError(f"{reply['error']} ({reply.get('at')})")
        self.in_force = reply.get("in_force", [])

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        is_debugging = logging.getLogger("app").isEnabledFor(logging.DEBUG)
        # What a handler prints may hold what callers sent, so it goes nowhere unless somebody looks for a fault.
        output = None if is_debugging else asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.handlers.worker.handler_worker", str(theirs.fileno())),
            cwd=PROJECT_ROOT,
            # Python writes no byte code: a signed folder must stay as it was signed.
            env=make_environment() | {"PYTHONDONTWRITEBYTECODE": "1"} | dict.fromkeys(THREADS, str(self._threads)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )

    async def predict(
        self, requests: Sequence[Mapping[str, Any]], blobs: Sequence[bytes], timeout_s: float, on_part: OnPart
    ) -> Message:
        """Have a batch answered; raises `HandlerLostError`, and ends the process, if it was not, or not to its end."""

        def hand_out(message: Message) -> None:
            parts = message.header[PARTS]
            if not isinstance(parts, list) or len(parts) != len(message.blobs):
                raise BrokenMessageError("the parts are of another form")
            for (place, header), body in zip(parts, message.blobs, strict=True):
                if place not in range(len(requests)) or not isinstance(header, dict):
                    raise BrokenMessageError("a part is of another form")
                on_part(place, header, body)

        reply = await self._ask({"requests": requests}, blobs, timeout_s, hand_out)
        answers = reply.header.get("answers")
        if not isinstance(answers, list) or not len(answers) == len(reply.blobs) == len(requests):
            await self.end()
            raise HandlerLostError("the answer is of another form")
        return reply

    async def _ask(
        self, header: Mapping[str, Any], blobs: Sequence[bytes], timeout_s: float, on_parts: OnParts
    ) -> Message:
        assert self._reader is not None, "start() makes it"
        assert self._writer is not None, "as above"
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(encode(header, blobs))
                await self._writer.drain()
                return await read_reply(self._reader, on_parts)
        except TimeoutError:
            await self.end()
            raise HandlerLostError(f"took longer than {timeout_s:g} s") from None
        except (ConnectionResetError, BrokenPipeError):  # a socket is reset when it is closed with bytes unread
            raise HandlerUnaskedError(await self.describe_end()) from None
        except BrokenMessageError as error:
            await self.end()
            raise HandlerLostError(f"it said what is no answer: {error}") from error
        except (EOFError, OSError) as error:
            raise HandlerLostError(await self.describe_end()) from error

    async def describe_end(self) -> str:
        """Say how a process ended that has closed its end of the socket, and end all it started."""
        try:
            async with asyncio.timeout(END_S):  # its end closes a moment earlier
                reason = describe_exit(await self.wait(), self._memory_bytes)
        except TimeoutError:
            reason = "it closed its connection"
        await self.end()
        return reason

    async def wait(self) -> int:
        """Wait until the process has ended; return its code."""
        assert self._process is not None, "start() makes it"
        return await self._process.wait()

    async def end(self) -> int | None:
        """End the process and all it started, now; return its code."""
        if self._writer is not None:
            self._writer.close()
        if self._process is None:
            return None
        if not self._is_ended:
            self._is_ended = True
            with suppress(ProcessLookupError, PermissionError):  # it has ended already
                os.killpg(self._process.pid, signal.SIGKILL)
        return await self._process.wait()


async def read_reply(reader: asyncio.StreamReader, on_parts: OnParts) -> Message:
    """Read the answers, and all that comes before them; together they may be as long as one message."""
    size = 0
    while True:
        message = await read_message(reader)
        size += sum(len(blob) for blob in message.blobs)
        if size > MAX_MESSAGE_BYTES:
            raise BrokenMessageError("the parts are too long")
        if PARTS not in message.header:
            return message
        on_parts(message)
