"""The bytes of a response: how their end is told, and where they wait for the client."""

import math
import time
from dataclasses import dataclass

from prefork_sd import http1
from prefork_sd.wsgi.files import FileSlice, Piece, Spool
from prefork_sd.wsgi.shapes import CHUNKED, CLOSE, JOINED, KEEP_ALIVE, Shape, shape_of

SMALL = 8192  # bytes that are joined rather than sent as pieces


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a response may wait for its client, and how long it may be made in one go.

    Beyond `room` bytes what waits goes to a file of up to `disk` bytes. Only what is beyond that,
    or takes more than `seconds`, is made later on, while others have the app.
    """

    room: int
    disk: int
    seconds: float = math.inf


class Framing:
    """A response as the client gets it (RFC 9112, 6): `out` is what waits for it.

    The connection must be closed when `broken` is set.
    """

    __slots__ = (
        "_bounds",
        "_chunked",
        "_fresh",
        "_left",
        "_mute",
        "_patience",
        "_shape",
        "_spool",
        "_stuck",
        "broken",
        "done",
        "failure",
        "head",
        "keep_alive",
        "out",
        "pending",
        "sent",
        "started",
        "status",
    )

    def __init__(
        self, head: http1.Head, keep_alive: bool, bounds: Bounds, patience: float = math.inf
    ) -> None:
        self.head = head  # of the request
        self.keep_alive = keep_alive
        self._bounds = bounds
        self._patience = patience  # when (monotonic) an app is too slow to keep a client with it
        self.out: list[Piece] = []
        self._fresh = True  # no head is queued yet
        # pending: bytes in `out`, but for files; sent: bytes of the body produced so far
        self.pending = self.sent = 0
        # started: whether any byte has left for the client, which the connection says
        self.done = self.broken = self.started = False
        # chunked: in chunks; mute: the head is all there is to send; stuck: the disk is full
        self._chunked = self._mute = self._stuck = False
        self._spool: Spool | None = None
        self.failure: BaseException | None = None
        self.status = 500  # until the app says another one
        self._shape: Shape | None = None
        self._left: int | None = None

    # ---- what is said

    def say(self, shape: Shape) -> None:
        """That is the response's head."""
        self._shape = shape
        self.status = shape.status

    def add(self, data: bytes) -> None:
        """The next block of the body."""
        if type(data) is not bytes:
            if not isinstance(data, bytes):
                raise TypeError(f"the app yielded {type(data).__name__}, not bytes")
            data = bytes(data)
        if not data:
            return
        if self._fresh:
            self._send_head(None)
        self._body(data)

    def rest(self, data: memoryview) -> None:
        """What is left to be sent of a whole response that somebody else has made."""
        self.out.append(data)
        self.pending = len(data)
        self._fresh = False
        self.started = self.done = True

    def whole(self, data: bytes) -> None:
        """A body that is all there."""
        if type(data) is not bytes:
            raise TypeError(f"the app yielded {type(data).__name__}, not bytes")
        shape, head, size = self._shape, self.head, len(data)
        if (
            shape is not None
            and shape.length == size
            and self._fresh
            and not shape.bodiless
            and head.version == "HTTP/1.1"
            and head.method != "HEAD"
        ):
            self._send_whole(shape, data)
            return
        if self._fresh:
            self._send_head(size)
        if data:
            self._body(data)
        self.complete()

    def file(self, fd: int, offset: int, size: int) -> bool:
        """A body that is `size` bytes of a file; False: the app has said more, or sent some."""
        if not self._fresh:
            return False
        if self._shape is None:
            raise AssertionError("the app returned without calling start_response()")
        if self._shape.length is not None and self._shape.length > size:
            return False
        self._send_head(size)
        count = size if self._left is None else self._left
        if not self._mute:
            self.out.append(FileSlice(fd, offset, count))
            self.sent += count
            self._left = 0
        self.done = True
        return True

    def complete(self) -> None:
        """Nothing more comes."""
        if self._fresh:
            self._send_head(0)
        if self._chunked:
            self._put(http1.LAST_CHUNK)
        elif self._left and not self._mute:
            self.broken = True
            self.failure = self.failure or ValueError(
                f"the app sent {self._left} bytes fewer than its Content-Length says"
            )

    def sorry(self) -> None:
        """A 500 instead of what has been produced, of which nothing has left yet."""
        self.forget()
        self.say(shape_of("500 Internal Server Error", [("Content-Type", "text/plain")]))
        body = b"Internal Server Error\n"
        self._send_head(len(body))
        self._body(body)

    def forget(self) -> None:
        """Take back what has been produced, as nothing of it has left yet."""
        self.out.clear()
        self.pending = self.sent = 0
        self._left, self._chunked, self._fresh = None, False, True

    def abandon(self) -> None:
        """Nobody will read the rest: all that is left to be made is its end, by `produce`."""
        self.broken = True
        self.out.clear()
        self.pending = 0

    def let_go(self) -> None:
        """In another process than the one that makes it: keep nothing of what is to be sent."""
        self.out.clear()
        if self._spool is not None:
            self._spool.close()

    # ---- how it is framed

    def _send_whole(self, shape: Shape, data: bytes) -> None:
        """The short way that most responses go: as long as the app has said it, and all there."""
        self._fresh = False
        if self._patience < math.inf and time.monotonic() > self._patience:
            self.keep_alive = False
        start = shape.whole(b"" if self.keep_alive else CLOSE)
        size = len(data)
        if size <= JOINED:
            self.out.append(start + data)
        else:
            self.out += (start, data)
        self.pending = len(start) + size
        self.sent = size
        self.done = True

    def _send_head(self, length: int | None) -> None:
        """Decide the framing (RFC 9112, 6) and queue the head. `length`: known in advance."""
        shape = self._shape
        if shape is None:
            raise AssertionError("the app returned data before calling start_response()")
        self._fresh = False
        head, framing = self.head, b""
        modern = head.version == "HTTP/1.1"
        self._mute = shape.bodiless or head.method == "HEAD"
        if shape.bodiless:
            self._left = 0
        elif shape.length is not None:
            self._left = shape.length
        elif length is not None and (length or head.method != "HEAD"):
            self._left = length
            framing = b"Content-Length: %d\r\n" % length
        elif modern:
            self._chunked = not self._mute
            framing = CHUNKED
        else:
            self.keep_alive = False
        if time.monotonic() > self._patience:
            self.keep_alive = False
        connection = CLOSE if not self.keep_alive else b"" if modern else KEEP_ALIVE
        self._put(shape.whole(connection, framing))

    def _body(self, data: bytes) -> None:
        if self._mute:
            return
        if self._chunked:
            self.sent += len(data)
            self._put(http1.chunk(data))
            return
        if self._left is not None:
            if len(data) > self._left:
                self.failure = self.failure or ValueError(
                    "the app sent more bytes than its Content-Length says"
                )
                data = data[: self._left]
            self._left -= len(data)
        if data:
            self.sent += len(data)
            self._put(data)

    # ---- where it waits

    def has_room(self) -> bool:
        """Whether more can wait for the client."""
        return self.pending < self._bounds.room or self._has_disk()

    def _put(self, data: bytes) -> None:
        out = self.out
        if self.pending >= self._bounds.room and self._kept(data):
            return
        self.pending += len(data)
        if out and len(data) < SMALL and type(last := out[-1]) is bytes and len(last) < SMALL:
            out[-1] = last + data  # one piece is cheaper to send than two
        else:
            out.append(data)

    def _kept(self, data: bytes) -> bool:
        """Put it aside for a slow client; False: it stays in memory."""
        if not self._has_disk():
            return False
        try:
            self._spool = self._spool or Spool()
            self._spool.add(data, self.out)
        except OSError:  # a full disk is no reason to fail: the app waits for the client
            self._stuck = True
            return False
        return True

    def _has_disk(self) -> bool:
        used = self._spool.size if self._spool else 0
        return used < self._bounds.disk and not self._stuck
