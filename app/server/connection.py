"""One client's connection: bytes in, whole requests out, answers back; it never waits for the client."""

import logging
import select
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any

from app.config.settings import CALLER_IS_GONE, CALLER_IS_KNOWN
from app.errors import BrokenAnswerError
from app.server.answer import Answer, StreamedAnswer, write_refusal
from app.server.client_presence import LINGER_S, ClientPresence, ClientTimes
from app.server.request_reader import CONTINUE, Request, RequestReader
from app.server.streamed_body import StreamedBody

log = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024
REQUEST_BYTES = 2 * 1024
"""Memory that a request takes here, beside its body; a client may send a hundred of them in 4 KiB."""
MAX_RECEIVES = 64
"""Most parts that are read before other connections have their turn; they have it after each answer, too."""
LATE = "The request did not come to its end in time."


class State(Enum):
    """What is done with a connection."""

    OPEN = "requests are read and answered"
    ENDING = "the last answer is being sent; then the connection is closed"
    REFUSING = "the last answer is being sent, to a client that is still sending; then the connection lingers"
    LINGERING = "what the client still sends is read and thrown away"
    CLOSED = "nothing"


class Connection:
    """A connection without blocking calls; the thread that holds `lock` owns it.

    By `time.monotonic()`, `since` is when its client came, began the request that is coming, or was last answered; at
    the `deadline` it is closed; and a withheld answer is `due`. It came by the address whose descriptor is `listener`.
    """

    def __init__(
        self,
        sock: socket.socket,
        reader: RequestReader,
        times: ClientTimes,
        on_close: Callable[["Connection"], object],
        listener: int = -1,
    ) -> None:
        self.fd, self.lock, self.state = sock.fileno(), threading.Lock(), State.OPEN
        self.listener, self.since = listener, time.monotonic()
        self.due: float | None = None
        self.is_in_line = self.is_known = False  # waits for its turn; had a right password in the last request answered
        self.deadline = self.since + times.allow(is_new=True, is_idle=True, is_in_head=False)
        self._socket, self._reader, self._on_close, self._times = sock, reader, on_close, times
        self._presence = ClientPresence(sock)
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._tls_wants_write = False
        self.is_new, self._was_idle = True, True
        self._unsent = self._withheld = b""
        sock.setblocking(False)

    @property
    def is_closed(self) -> bool:
        """Whether it is closed."""
        return self.state is State.CLOSED

    def is_open(self) -> bool:
        """Whether there may be something to do: it is neither closed, nor withholding an answer."""
        return self.state is not State.CLOSED and self.due is None

    @property
    def is_idle(self) -> bool:
        """Whether the client has sent nothing that is not answered."""
        return self._reader.is_between and self._is_free and not self._reader.requests

    @property
    def wants_write(self) -> bool:
        """Whether there is work as soon as the client takes more."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True  # what was deciphered has left the socket, so the system does not report it
        is_told = self.state is State.OPEN and (self._reader.refusal is not None or self._reader.wants_continue)
        return bool(self._unsent or self._reader.requests or is_told or self._tls_wants_write)

    @property
    def held_bytes(self) -> int:
        """Bytes of the body that is not whole yet, and of requests that wait; none once the last answer was given."""
        waiting = REQUEST_BYTES * len(self._reader.requests)
        return self._reader.held_bytes + waiting if self.state is State.OPEN else 0

    @property
    def head(self) -> dict[str, Any] | None:
        """The environment of the request whose body is coming, if any."""
        return self._reader.head if self.state is State.OPEN else None

    @property
    def _is_free(self) -> bool:
        return not self._unsent and self.due is None

    def serve(self, buffer: bytearray, answer: Callable[[Request], Answer]) -> None:
        """Read what is there, into the thread's buffer, and answer each request that is whole."""
        if self.deadline < time.monotonic() and (self.state is State.LINGERING or not self.is_idle):
            self.expire()  # the look round never owns a client that never pauses
            return
        self._flush()
        has_answered = self._answer_ready(answer)
        for _ in range(MAX_RECEIVES):
            if has_answered or not self.is_open() or self._unsent:
                break
            most = min(self._reader.wanted_bytes, RECEIVE_BYTES)
            count = self._receive(memoryview(buffer)[:most])
            if count == 0:
                self.close()
            if count <= 0:
                break
            if self.state is not State.OPEN:
                continue
            self._reader.feed(memoryview(buffer)[:count])
            has_answered = self._answer_ready(answer)
            if count < most and self._reader.is_between and not self._is_tls:
                break  # the socket is empty, or the next poll tells; in mid-request the rest is often there already
        self.settle()

    def _answer_ready(self, answer: Callable[[Request], Answer]) -> bool:
        """Answer the next request if it is whole and the client has taken all answers; return whether one was."""
        reader, has_answered = self._reader, False
        if reader.requests and self.state is State.OPEN and self._is_free:
            self._answer_one(reader.requests.popleft(), answer)
            has_answered = True
        if reader.requests or self.state is not State.OPEN or not self._is_free:
            return has_answered
        if reader.refusal is not None:
            self.refuse(*reader.refusal)
        else:
            self._tell_to_continue()
        return has_answered

    def _answer_one(self, request: Request, answer: Callable[[Request], Answer]) -> None:
        request.environ[CALLER_IS_GONE] = self.is_gone
        if request.stream is not None:
            request.stream.wait_for_more = partial(self._wait_for_more, request.stream)
        text, is_last, delay_s, streamed = answer(request)
        self.is_new, self.is_known = False, request.environ.get(CALLER_IS_KNOWN, False)
        if streamed is not None:
            text = self._send_as_made(text, streamed)
        if self.state is not State.OPEN:  # the rest of a streamed body was refused meanwhile
            return
        self.due = time.monotonic() + delay_s if delay_s else None
        if is_last:
            self.state = State.REFUSING if request.has_unread_body else State.ENDING
        self._send(text)
        self.since = time.monotonic()

    def _send_as_made(self, text: bytes, streamed: StreamedAnswer) -> bytes:
        """Send an answer as it is made; return what the client has not taken. If it breaks off, the connection ends."""
        waiting = [text]
        try:
            for chunk in streamed:
                waiting.append(chunk)
                self._flush()
                if not self._unsent:
                    self._send(b"".join(waiting))
                    waiting.clear()
                if self.is_closed:
                    break
        except BrokenAnswerError:
            self.close()
        finally:
            streamed.close()
        return b"".join(waiting)

    def _tell_to_continue(self) -> None:
        """Tell a client to send its body that waits to be told."""
        if self._reader.wants_continue:
            self._reader.wants_continue = False
            self._send(CONTINUE)

    def _wait_for_more(self, stream: StreamedBody) -> None:
        """Wait for more of a streamed body, the one place where a thread waits for its client. Raises `OSError` if the
        client has gone, is too slow, or sends what is no HTTP.
        """
        self._tell_to_continue()
        buffer = bytearray(RECEIVE_BYTES)
        while (count := self._receive(memoryview(buffer))) < 0:
            left_s = stream.find_deadline(self._times.upload_s) - time.monotonic()
            if left_s <= 0:
                self.refuse(HTTPStatus.REQUEST_TIMEOUT, LATE)
                raise TimeoutError(LATE)
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT if self._tls_wants_write else select.POLLIN)
            poll.poll(left_s * 1000)
        if not count:
            raise ConnectionResetError("the client has gone")
        self._reader.feed(memoryview(buffer)[:count])
        if self._reader.refusal is not None:
            self.refuse(*self._reader.refusal)
            raise ConnectionAbortedError("the body is malformed")

    def release(self) -> None:
        """Send the withheld answer; what comes after it is for `serve`."""
        self._unsent, self._withheld, self.due = self._withheld, b"", None
        self._flush()
        self.since = time.monotonic()
        self.settle()

    def is_gone(self) -> bool:
        """Whether the client no longer waits; see `ClientPresence`."""
        return not self._is_tls and self._presence.is_gone()  # of TLS, what is there to read is not for us to tell

    def refuse(self, status: HTTPStatus, message: str, retry_after_s: int | None = None) -> None:
        """Answer for a request that never became whole, and end the connection; what came of it is let go."""
        self._reader.drop()
        if self.state is State.OPEN:
            self.state = State.REFUSING
            request_id = str(uuid.uuid4())
            log.info("no whole request", extra={"request_id": request_id, "status": int(status), "reason": message})
            self._send(write_refusal(status, message, request_id, retry_after_s))

    def _receive(self, buffer: memoryview) -> int:
        """Receive into the buffer; returns the number of bytes, 0 at the end, -1 if there is nothing now."""
        self._tls_wants_write = False
        try:
            return self._socket.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            self._tls_wants_write = isinstance(error, ssl.SSLWantWriteError)
            return -1
        except OSError:
            return 0

    def _send(self, data: bytes) -> None:
        if self.due is not None:
            self._withheld += data
            return
        self._unsent += data
        self._flush()

    def _flush(self) -> None:
        """Send as much as the client takes now; after the last byte of the last answer, end the connection."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                self.close()
                return
            self._unsent = self._unsent[sent:]
        if self.state is State.ENDING and self.due is None:
            self.close()

    def settle(self) -> None:
        """Say until when the client may take for what comes next; called by the owner when it is done."""
        if self.state is State.REFUSING and self._is_free:
            self.state, self.deadline = State.LINGERING, time.monotonic() + LINGER_S
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.close()
        if self.state in (State.LINGERING, State.CLOSED):
            return
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.version() is None:
            return  # for the handshake of TLS a client has its first deadline alone
        is_idle, is_in_head = self.is_idle, self._is_free and self._reader.is_in_head
        if self._was_idle and not is_idle:
            self.since = time.monotonic()
        self._was_idle = is_idle  # bytes that begin no request move nothing
        self.deadline = self.since + self._times.allow(self.is_new, is_idle, is_in_head)

    @contextmanager
    def try_to_own(self) -> Iterator[bool]:
        """Own the connection if nobody works on it and it is not closed."""
        is_owner = self.lock.acquire(blocking=False)
        try:
            yield is_owner and not self.is_closed
        finally:
            if is_owner:
                self.lock.release()

    def expire(self) -> None:
        """Close, the deadline being past; say so to a client in the middle of a request."""
        if not self.is_idle:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, LATE)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if not self.is_closed:
            self.state = State.CLOSED
            self._reader.drop()  # it and its parser hold each other, and a body with them
            self._on_close(self)
            self._socket.close()
