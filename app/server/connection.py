"""One client's connection: bytes in, whole requests out, answers back; it never waits for the client."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus

from app.config.settings import CALLER_IS_GONE
from app.errors import BrokenAnswerError
from app.server.answer import Answer, StreamedAnswer, write_refusal
from app.server.request_reader import CONTINUE, RefusedRequestError, Request, RequestReader
from app.server.streamed_body import StreamedBody

RECEIVE_BYTES = 64 * 1024
MAX_RECEIVES, MAX_REQUESTS = 64, 16
"""So many parts are read, and requests answered, before others and the deadline have their turn."""
LATE = "The request did not come to its end in time."
LINGER_S = 2.0
"""How long the rest of a refused body is read and thrown away: closing at once would take the answer with it."""


class Connection:
    """A connection without blocking calls; whoever holds `lock` owns it.

    Attributes:
        lock: held by the thread that works on the connection, or that closes it.
        due: `time.monotonic()` at which a withheld answer is due for `release`; None if there is none.
        deadline: `time.monotonic()` by which the client must go on; passed, the connection is closed.
        is_closed: whether it is closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        reader: RequestReader,
        idle_s: float,
        upload_s: float,
        on_close: Callable[[int], None],
    ) -> None:
        self.fd = sock.fileno()
        self.lock = threading.Lock()
        self.is_closed = False
        self._on_close = on_close
        self._socket = sock
        self._reader = reader
        self._idle_s = idle_s
        self._upload_s = upload_s
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._is_shaking_hands = self._is_tls
        self._unsent = b""
        self._withheld = b""
        self.due: float | None = None
        self._refusal: RefusedRequestError | None = None
        self._is_ending = False  # after what is unsent
        self._is_lingering = False
        self._tls_wants_write = False
        self._busy_since: float | None = None
        self._lingers_since: float | None = None
        self.deadline = time.monotonic() + upload_s
        sock.setblocking(False)

    @property
    def wants_write(self) -> bool:
        """Whether there is work as soon as the client takes more."""
        return bool(self._unsent or self._reader.requests) or self._tls_wants_write

    @property
    def held_bytes(self) -> int:
        """Of the request that is not whole yet."""
        return self._reader.held_bytes

    def is_open(self) -> bool:
        """Whether there may be something to do: it is neither closed, nor withholding an answer."""
        return not self.is_closed and self.due is None

    @property
    def is_ending(self) -> bool:
        """Whether the last answer was given."""
        return self._is_ending

    @property
    def is_idle(self) -> bool:
        """Whether the client has sent nothing since the last answer."""
        return self._reader.is_between and not self._unsent and self.due is None

    def serve(self, buffer: bytearray, answer: Callable[[Request], Answer]) -> None:
        """Read what is there and answer each request that is whole.

        Args:
            buffer: of the calling thread.
            answer: returns a request's answer.
        """
        is_begun = self._is_lingering or not self.is_idle
        if is_begun and self.deadline < time.monotonic():  # the look round never owns a client that never pauses
            self.expire()
            return
        self._flush()
        self._answer_ready(answer)
        view = memoryview(buffer)
        for _ in range(MAX_RECEIVES):
            if self.is_closed or self._unsent or self.due is not None:
                break
            count = self._receive(buffer)
            if count < 0:
                break
            if count == 0:
                self.close()
                return
            if self._is_lingering:
                continue
            try:
                self._reader.feed(view[:count])
            except RefusedRequestError as error:
                self._refusal = error
            self._answer_ready(answer)
            if count < len(buffer) and self._reader.is_between and not self._is_tls:
                break  # the socket is empty, or the next poll tells; in mid-request the rest is often there already
        self._set_deadline()

    def _answer_ready(self, answer: Callable[[Request], Answer]) -> None:
        """Answer what is whole, one after the other, as far as the client takes the answers."""
        reader = self._reader
        for _ in range(MAX_REQUESTS):
            if not reader.requests or self._is_ending or self._unsent or self.due is not None:
                break
            request = reader.requests.popleft()
            request.environ[CALLER_IS_GONE] = self.is_gone
            if request.stream is not None:
                request.stream.attach(partial(self._wait_for_more, request.stream))
            text, is_last, delay_s, streamed = answer(request)
            if streamed is not None:
                text = self._send_as_made(text, streamed)
            if self.is_closed or self.is_ending:  # the rest of a streamed body was refused meanwhile
                return
            if delay_s:
                self._withheld, self.due = text, time.monotonic() + delay_s
                text = b""
            self._send(text, ends=is_last, lingers=request.has_unread_body)
        if reader.requests or self._is_ending or self._unsent or self.due is not None:
            return
        if self._refusal is not None:
            self.refuse(self._refusal.status, str(self._refusal))
        elif reader.wants_continue:
            reader.wants_continue = False
            self._send(CONTINUE)

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

    def _wait_for_more(self, stream: StreamedBody) -> None:
        """Wait until more of a streamed body has come; the one place where a thread waits for its client.

        Raises:
            OSError: the client has gone, is too slow, or sends what is no HTTP.
        """
        if self._reader.wants_continue:
            self._reader.wants_continue = False
            self._send(CONTINUE)
        buffer = bytearray(RECEIVE_BYTES)
        while (count := self._receive(buffer)) < 0:
            left_s = stream.find_deadline(self._upload_s) - time.monotonic()
            if left_s <= 0:
                self.refuse(HTTPStatus.REQUEST_TIMEOUT, LATE)
                raise TimeoutError(LATE)
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT if self._tls_wants_write else select.POLLIN)
            poll.poll(left_s * 1000)
        if not count:
            raise ConnectionResetError("the client has gone")
        try:
            self._reader.feed(memoryview(buffer)[:count])
        except RefusedRequestError as error:
            self.refuse(error.status, str(error))
            raise ConnectionAbortedError("the body is malformed") from error

    def release(self) -> None:
        """Send the withheld answer; what comes after it is for `serve`."""
        self._unsent, self._withheld, self.due = self._withheld, b"", None
        self._flush()
        self._set_deadline()

    def is_gone(self) -> bool:
        """Whether the client has closed its side; only for the thread that answers it."""
        if self._is_tls:
            return False  # what is there to read is not for us to tell
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def refuse(self, status: HTTPStatus, message: str, retry_after_s: int | None = None) -> None:
        """Answer for a request that never became whole, and end the connection; what came of it is let go."""
        self._reader.drop()
        self._send(write_refusal(status, message, retry_after_s), ends=True, lingers=True)

    def _receive(self, buffer: bytearray) -> int:
        """Receive into the buffer; returns the number of bytes, 0 at the end, -1 if there is nothing now."""
        self._tls_wants_write = False
        try:
            return self._socket.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return -1
        except ssl.SSLWantWriteError:
            self._tls_wants_write = True
            return -1
        except OSError:
            return 0

    def _send(self, data: bytes, ends: bool = False, lingers: bool = False) -> None:
        self._unsent += data
        self._is_ending = self._is_ending or ends
        self._is_lingering = self._is_lingering or lingers
        self._flush()

    def _flush(self) -> None:
        """Send as much as the client takes now; end the connection after the last byte of the last answer."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                self.close()
                return
            self._unsent = self._unsent[sent:]
        if self._is_ending and not self._is_lingering and self.due is None:
            self.close()

    def _set_deadline(self) -> None:
        if self.is_closed or self._is_handshake_unfinished():
            return
        now = time.monotonic()
        if self._is_lingering and not self._unsent and self.due is None:
            if self._lingers_since is None:
                self._lingers_since = now
                self._end_sending()
            self.deadline = self._lingers_since + LINGER_S
        elif self.is_idle:
            self._busy_since, self.deadline = None, now + self._idle_s
        else:
            self._busy_since = self._busy_since or now
            self.deadline = self._busy_since + self._upload_s

    def _is_handshake_unfinished(self) -> bool:
        """Whether the client has yet to finish the handshake of TLS, for which it has its first deadline only."""
        if self._is_shaking_hands:
            assert isinstance(self._socket, ssl.SSLSocket)
            self._is_shaking_hands = self._socket.version() is None
        return self._is_shaking_hands

    def _end_sending(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

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
        if not self.is_idle and not self._is_ending:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, LATE)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if not self.is_closed:
            self.is_closed = True
            self._on_close(self.fd)
            self._socket.close()
