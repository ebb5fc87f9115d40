"""One client: the request it is sending, and what is made of the bytes that come."""

import os
import select
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from math import inf
from typing import IO

from prefork_sd import http1, proxyprotocol
from prefork_sd.workers.bodies import Body
from prefork_sd.workers.outlet import Outlet
from prefork_sd.workers.terms import Terms
from prefork_sd.wsgi import Environ

# bytes taken by one read(2): a head and 64 KiB, and less than what malloc(3) maps anew each time
RECEIVE = 98304
UNWATCHED = -1  # `Connection.events` while epoll does not know it


class Phase(Enum):
    """What the connection waits for."""

    HEAD = "head"  # a request, or the rest of its head
    BODY = "body"
    RUNNING = "running"  # the app
    SENDING = "sending"  # the client, to take what is on its way
    LINGERING = "lingering"  # the client, to have read our last words: RFC 9112, 9.6
    CLOSED = "closed"


HEAD, BODY, RUNNING, SENDING, LINGERING, CLOSED = Phase  # as the hot path gets at them


@dataclass(slots=True)
class Request:
    """A whole request: its head, and its body as a file."""

    head: http1.Head
    body: IO[bytes]
    started: float = 0.0  # monotonic seconds
    ended: float = 0.0  # if its response waits for others
    environ: Environ | None = None
    id: str = ""

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        return self.head.path

    def close(self) -> None:
        """Its body may be a file; the app may have written to it, or have a view of its memory."""
        with suppress(OSError, BufferError):
            self.body.close()


class Connection(Outlet):
    """The protocol's state for one client. It knows its socket, but neither epoll nor the app."""

    __slots__ = (
        "_body",
        "_reader",
        "_spool",
        "announced",
        "base",
        "buffer",
        "deadline",
        "events",
        "filed",
        "head",
        "heavy",
        "idle",
        "parting",
        "phase",
        "plain",
        "remote",
        "request",
        "served",
    )

    to_read = select.EPOLLIN  # what to wait for when nothing was there to `receive`

    def __init__(self, terms: Terms, fd: int, remote: tuple[str, str]) -> None:
        super().__init__(terms, fd)
        self.remote = remote
        self.base = terms.base
        self.plain = terms.plain
        self.phase = HEAD
        # what has come and was not looked at; a view of it only until its body is taken
        self.buffer: bytes | bytearray | memoryview = b""
        self.head: http1.Head | None = None
        self.request: Request | None = None
        self.served = self.filed = 0
        self.announced: bool | None = None  # False: a PROXY header comes first; True: must not
        # heavy: its last request had a body, and the next one may have
        # idle: between two requests
        # parting: the response that it gets right now is the last one
        self.heavy = self.idle = self.parting = False
        self.events = UNWATCHED  # what epoll watches for us
        self.deadline = inf
        self._reader: http1.HeadReader | None = None  # of a head that comes in pieces
        self._body: http1.FixedBody | http1.ChunkedBody | None = None
        self._spool: Body | None = None

    def receive(self) -> bool:
        """Take what has come; False if nothing had. Raises OSError when the client is gone."""
        try:
            data = os.read(self.fd, RECEIVE)
        except BlockingIOError:
            return False
        if data:
            self.take(data)
        else:
            self.ended = True
        return True

    def take(self, data: bytes) -> None:
        """Add to the buffer. Most often it is a whole request, which nobody has to copy."""
        if self.buffer:
            self.pieces().extend(data)
        else:
            self.buffer = data

    def pieces(self) -> bytearray:
        """The buffer, as one that can be changed."""
        if type(self.buffer) is not bytearray:
            self.buffer = bytearray(self.buffer)
        return self.buffer

    @property
    def bare(self) -> bool:
        """Whether what comes next is a request from its first byte on, and nothing is over it."""
        unread = self.buffer or self._reader is not None or self.announced is not None
        return self.phase is HEAD and not unread

    def wait_for_data(self, seconds: float) -> bool:
        """Wait a moment for what is certainly on its way."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def next_request(self) -> Request | None:
        """Take a whole request off the buffer; None: more bytes are needed.

        Raises `http1.BadRequest`, after which the connection can only be closed, and OSError if the
        body found no room on the disk.
        """
        head = self.head
        if head is None:
            if not self.buffer:
                return None
            if self.announced is not None and not self._announce():
                return None
            if self._reader is None and type(self.buffer) is bytes:
                head = self.terms.head(self.buffer)
            if head is not None:
                self.buffer = b""
            elif (head := self._read_head()) is None:
                return None
            self.heavy = head.chunked or head.length > 0
            if not self.heavy:
                return Request(head, BytesIO())
            body = http1.body_reader(head, self.terms.limits)
            if 0 < head.length == len(self.buffer) <= self.terms.body_buffer:
                data, self.buffer = bytes(self.buffer), b""  # all of it came with the head
                return Request(head, BytesIO(data))
            self._body = body
            self.head = head
            self.phase = BODY
            self._spool = Body(self.terms.body_buffer)
            if head.expect_continue and not self.buffer:
                self.interim(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._read_body():
            return None
        assert self._spool is not None
        request = Request(head, self._spool.whole())
        self.head = self._body = self._spool = None
        self.phase = HEAD
        return request

    def _read_head(self) -> http1.Head | None:
        """The next head, if all of it has come: with more behind it, or in pieces."""
        buffer = self.buffer if type(self.buffer) is bytes else self.pieces()
        if self._reader is None:
            if head := self.terms.heads.first(buffer):
                if head.length and type(buffer) is bytes:  # a body, which is not to be copied here
                    self.buffer = memoryview(buffer)[len(head.raw) :]
                else:
                    del self.pieces()[: len(head.raw)]
                return head
            self._reader = http1.HeadReader(self.terms.limits)
        if head := self._reader.read(self.pieces()):
            self._reader = None
        return head

    def _read_body(self) -> bool:
        """Take of the body what has come; True when all of it has. Raises OSError."""
        body, spool = self._body, self._spool
        assert body is not None and spool is not None  # noqa: PT018
        data: bytes | bytearray | memoryview
        if isinstance(body, http1.FixedBody) and body.take(len(self.buffer)):
            data, self.buffer = self.buffer, b""
        else:
            data = body.read(self.pieces())
        if data:
            spool.write(data)
        return body.done

    def _announce(self) -> bool:
        """Take the PROXY header; False: more bytes are needed."""
        try:
            if self.announced:
                raise proxyprotocol.NotProxiedError("this proxy is not in forwarded_allow_ips")
            found = proxyprotocol.read(self.pieces())
        except proxyprotocol.NotProxiedError as error:
            raise http1.BadRequest(400, str(error)) from None
        if found is False:
            return False
        self.announced = None
        if isinstance(found, tuple):
            self.remote = found
        return bool(self.buffer)

    def discard(self) -> bool:
        """While lingering: throw away what still comes; True when the client has finished."""
        try:
            return not os.read(self.fd, RECEIVE)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self.phase = CLOSED
        super().close()

    def let_go(self) -> None:
        """In another process: have nothing of it open, without a word to a client who is not ours.

        What the app has made of it is left as it is: to close that is the worker's to do.
        """
        os.close(self.fd)
        self.buffer = b""
        if self._spool is not None:
            self._spool.close()
        if self.request is not None:
            self.request.close()
        if self.response is not None:
            self.response.let_go()
