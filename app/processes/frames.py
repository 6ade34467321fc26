"""Messages between our own processes: a JSON header and raw bytes, each with its length. Nothing is pickled."""

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import asyncio

LENGTH = struct.Struct("!I")
SOCKET_FILE = "socket"
"""In the folder of a server's manager."""
MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024 * 1024
COPIED_BYTES = 64 * 1024
PARTS = "parts"
"""In the header of a message from a handler that parts of answers come with: the place in the batch, and the header."""
Blob = bytes | bytearray | memoryview


class Message(NamedTuple):
    """A header, and the bytes that came with it."""

    header: dict[str, Any]
    blobs: list[bytes]


class BrokenMessageError(ValueError):
    """What came is not a message, or is too large; the connection is of no use any more."""


def encode(header: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> bytes:
    """Write a message; its bytes follow the header in order."""
    return b"".join((encode_header(header, blobs), *blobs))


def encode_header(header: Mapping[str, Any], blobs: Sequence[Blob]) -> bytes:
    """Write what stands before the bytes of a message."""
    text = json.dumps({**header, "sizes": [len(blob) for blob in blobs]}).encode()
    return LENGTH.pack(len(text)) + text


def decode_length(prefix: bytes) -> int:
    """Read the header's length; raises `BrokenMessageError` if it is too large."""
    length: int = LENGTH.unpack(prefix)[0]
    if length > MAX_HEADER_BYTES:
        raise BrokenMessageError("the header is too long")
    return length


def decode_header(text: bytes) -> tuple[dict[str, Any], list[int]]:
    """Read the header and the lengths of what follows; raises `BrokenMessageError` if it is none."""
    try:
        header = json.loads(text)
        sizes = header.pop("sizes")
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise BrokenMessageError("the header is malformed") from error
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise BrokenMessageError("the lengths are malformed")
    if sum(sizes) > MAX_MESSAGE_BYTES:
        raise BrokenMessageError("the message is too long")
    return header, sizes


async def read_message(reader: "asyncio.StreamReader") -> Message:
    """Read one message; raises `EOFError` if the other end is gone, or `BrokenMessageError`."""
    length = decode_length(await reader.readexactly(LENGTH.size))
    header, sizes = decode_header(await reader.readexactly(length))
    return Message(header, [await reader.readexactly(size) for size in sizes])


LOST = (OSError, EOFError, BrokenMessageError)
"""What tells that the other end has gone."""


class Channel:
    """One end of a socket that carries messages, for code that waits.

    Thread safety: one thread at a time.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._stream = connection.makefile("rb")

    def send(self, header: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> None:
        """Send a message; a large one is not copied."""
        if sum(map(len, blobs)) <= COPIED_BYTES:
            self.connection.sendall(encode(header, blobs))
            return
        for piece in (encode_header(header, blobs), *blobs):
            self.connection.sendall(piece)

    def receive(self) -> Message:
        """Receive a message; raises as `read_message`."""
        length = decode_length(self._read(LENGTH.size))
        header, sizes = decode_header(self._read(length))
        return Message(header, [self._read(size) for size in sizes])

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if data is None or len(data) != size:
            raise EOFError
        return data

    def has_something(self, within_s: float) -> bool:
        """Wait until there is something to read, or the other end has gone; False if neither comes in time."""
        self.connection.setblocking(False)
        try:
            if self._stream.peek(1):  # something of the next message was read with the last one
                return True
        finally:
            self.connection.setblocking(True)
        self.connection.settimeout(within_s)
        try:
            self.connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        finally:
            self.connection.settimeout(None)
        return True

    def is_at_end(self) -> bool:
        """Whether the other end has gone, or this one is closed; asks without waiting."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def wait_for_end(self) -> None:
        """Wait until the other end has gone, or this one is shut down; of a channel by which nothing more comes."""
        with suppress(OSError):
            self.connection.recv(1)

    def shut_down(self) -> None:
        """Have whoever waits at this end, in any thread, wait no longer."""
        with suppress(OSError):  # the other end may have gone
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._stream.close()
        self.connection.close()


def connect(path: Path) -> Channel:
    """Connect to a Unix socket; raises `OSError` if nobody listens there."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return Channel(connection)
