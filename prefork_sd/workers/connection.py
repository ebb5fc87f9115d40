"""One client: its socket, the request it is sending and the response on its way to it."""

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from math import inf
from typing import IO

from prefork_sd import http1, proxyprotocol
from prefork_sd.config import Config
from prefork_sd.workers.bodies import Body
from prefork_sd.wsgi import Environ, FileSlice, Piece, Response, Template

# bytes taken by one read(2): a head and 64 KiB, and less than what malloc(3) maps anew each time
PLAIN = 512  # requests that a worker remembers of a listener
RECEIVE = 98304
SLICE, SLICES = 1 << 20, 8  # bytes sent by one sendfile(2); how many before others' turn
LINGER_NOT = struct.pack("ii", 1, 0)  # l_onoff, l_linger of socket(7)
IOV_MAX = 1024  # of one writev(2)
LONGEST_WAIT = 1e6  # seconds that poll(2) can wait, and some reserve
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


class Terms:
    """What holds for every client of one listener: its base environ, the limits, known heads.

    `plain` are requests that came before, and of which the head is all.
    """

    __slots__ = ("_found", "base", "body_buffer", "heads", "limits", "plain", "send_timeout")

    def __init__(
        self, base: Environ, limits: http1.Limits, *, body_buffer: int, send_timeout: float
    ) -> None:
        self.base = base
        self.limits = limits
        self.heads = http1.Heads(limits)
        self.body_buffer = body_buffer  # bytes of a body that stay in memory
        self.send_timeout = send_timeout  # seconds for a client to take something
        self.plain: dict[bytes, Template] = {}
        self._found: tuple[bytes, http1.Head | None] = (b"", None)

    def head(self, data: bytes) -> http1.Head | None:
        """The head that `data` is: see Heads.take. What `template` has found came but once."""
        before, head = self._found
        return head if data is before else self.heads.take(data)

    def template(self, data: bytes) -> Template | None:
        """What `data` makes of an environ; None: it is not, or not only, a plain request."""
        head = self.heads.take(data)
        if head is None:
            return None
        modern = head.version == "HTTP/1.1"
        if not modern or head.length or head.chunked or head.method == "HEAD":
            self._found = data, head
            return None
        template = Template.of(self.base, head)
        if head.kept is template:
            if len(self.plain) >= PLAIN:
                self.plain.clear()
            self.plain[data] = template
        return template


class Connection:
    """The protocol's state for one client. It knows its socket, but neither epoll nor the app.

    The socket is a mere descriptor: an object for it would cost a third of a short connection.
    """

    __slots__ = (
        "_body",
        "_reader",
        "_spool",
        "announced",
        "base",
        "buffer",
        "deadline",
        "ended",
        "events",
        "fd",
        "filed",
        "head",
        "heavy",
        "idle",
        "parting",
        "phase",
        "plain",
        "remote",
        "request",
        "response",
        "served",
        "terms",
    )

    to_read = select.EPOLLIN  # what to wait for when nothing was there to `receive`

    def __init__(self, terms: Terms, fd: int, remote: tuple[str, str]) -> None:
        self.terms = terms
        self.fd = fd
        self.remote = remote
        self.base = terms.base
        self.plain = terms.plain
        self.phase = HEAD
        # what has come and was not looked at; a view of it only until its body is taken
        self.buffer: bytes | bytearray | memoryview = b""
        self.head: http1.Head | None = None
        self.request: Request | None = None
        self.response: Response | None = None
        self.served = self.filed = 0
        self.announced: bool | None = None  # False: a PROXY header comes first; True: must not
        # heavy: its last request had a body, and the next one may have
        # idle: between two requests; ended: the client will send nothing more
        # parting: the response that it gets right now is the last one
        self.heavy = self.idle = self.ended = self.parting = False
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

    def send(self) -> bool:
        """Send what is on its way; True if nothing of it is left. Raises OSError: client gone."""
        response = self.response
        if response is None:
            return True
        out = response.out
        if len(out) == 1 and type(only := out[0]) is bytes:  # nearly always
            try:
                sent = os.write(self.fd, only)
            except BlockingIOError:
                return False
            response.started = True
            response.pending -= sent
            if sent == len(only):
                out.clear()
                return True
            out[0] = memoryview(only)[sent:]
            return False
        while out:
            first = out[0]
            if isinstance(first, FileSlice):
                if not self._send_file(first):
                    return False
                del out[0]
                continue
            alone = len(out) == 1
            try:
                sent = os.write(self.fd, first) if alone else os.writev(self.fd, bytes_of(out))
            except BlockingIOError:
                return False
            response.started = True
            response.pending -= sent
            if alone and sent == len(first):
                out.clear()
            elif not taken(out, sent):
                return False
        return True

    def flush(self) -> bool:
        """Send what can be sent without waiting; False: the client is gone."""
        try:
            self.send()
        except OSError:
            return False
        return True

    def interim(self, data: bytes) -> None:
        """Send a small interim response now, or never."""
        with suppress(OSError):
            os.write(self.fd, data)

    def wait(self) -> bool:
        """Wait until everything is sent, each step for `send_timeout` at most; False: gone."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        try:
            while not self.send():
                if not poll.poll(min(self.terms.send_timeout, LONGEST_WAIT) * 1000):
                    return False
        except OSError:
            return False
        return True

    def _send_file(self, part: FileSlice) -> bool:
        """Send from a file, a few slices at a time; True when it is all sent."""
        for _ in range(SLICES):
            if part.left == 0:
                break
            try:
                sent = os.sendfile(self.fd, part.fd, part.offset, min(part.left, SLICE))
            except BlockingIOError:
                return False
            if sent == 0:
                raise ConnectionAbortedError("the file shrank while it was being sent")
            part.offset += sent
            part.left -= sent
        return part.left == 0

    def refuse(self, answer: bytes) -> None:
        """Send a last, whole answer as far as the socket takes it, and say that no more follows."""
        try:
            if answer:
                os.write(self.fd, answer)
            with self._as_socket() as sock:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended = True

    @contextmanager
    def _as_socket(self) -> Iterator[socket.socket]:
        """For what cannot be done with a mere descriptor."""
        sock = socket.socket(fileno=self.fd)
        try:
            yield sock
        finally:
            sock.detach()

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
        os.close(self.fd)

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

    def abort(self) -> None:
        """Close so that the client cannot take the response for a whole one: with a reset."""
        with suppress(OSError), self._as_socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self.close()


def bytes_of(out: list[Piece]) -> list[bytes | memoryview]:
    """The pieces before the first file, as many as one writev(2) takes."""
    pieces: list[bytes | memoryview] = []
    for piece in out[:IOV_MAX]:
        if isinstance(piece, FileSlice):
            break
        pieces.append(piece)
    return pieces


def taken(out: list[Piece], sent: int) -> bool:
    """Remove the first `sent` bytes; False: the kernel took less than it was given."""
    for index, piece in enumerate(out):
        if sent == 0 or isinstance(piece, FileSlice):
            del out[:index]
            return True
        length = len(piece)
        if sent < length:
            out[: index + 1] = [memoryview(piece)[sent:]]
            return False
        sent -= length
    out.clear()
    return True


def limits_of(cfg: Config) -> http1.Limits:
    """The limits of the grammar, from the settings."""
    return http1.Limits(
        line=cfg.limit_request_line,
        fields=cfg.limit_request_fields,
        field=cfg.limit_request_field_size,
        head=cfg.limit_request_head,
        body=cfg.limit_request_body,
    )
