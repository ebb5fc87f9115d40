"""One response: what the app says by start_response, write and its iterable, made into bytes."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

from prefork_sd import http1
from prefork_sd.wsgi.environ import Environ
from prefork_sd.wsgi.files import FileSlice, FileWrapper, Piece, Spool
from prefork_sd.wsgi.shapes import (
    CHUNKED,
    CLOSE,
    JOINED,
    KEEP_ALIVE,
    Headers,
    Shape,
    early_hints,
    shape_of,
)

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Application = Callable[..., Iterable[bytes]]

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


class ClientLeftError(ConnectionAbortedError):
    """What `write` raises when there is nobody to write to. No failure of the app."""


class Client(Protocol):
    """Where a response goes."""

    def flush(self) -> bool:
        """Send what can be sent without waiting; False: the client is gone."""

    def wait(self) -> bool:
        """Wait, within bounds, until everything is sent; False: the client is gone."""

    def interim(self, data: bytes) -> None:
        """Send a small interim response now, or never."""


class Response:
    """One response in the making.

    `begin` calls the app and `produce` takes what it yields, both in the app's slot; `out` is what
    waits for the client. Neither raises what the app raised: it is kept in `failure`, and the
    connection must be closed when `broken` is set.

    A response is made in one go where that can be, however slow its client is: what an app has of a
    thread (a connection to a database, a transaction) is not for two requests in turns. What is
    beyond the bounds is made in turns all the same; so each response has its own context
    (contextvars), or an app that keeps its request there would take one for another.
    """

    __slots__ = (
        "_bounds",
        "_chunked",
        "_client",
        "_close",
        "_context",
        "_fresh",
        "_holding",
        "_iterator",
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
        self,
        head: http1.Head,
        client: Client,
        keep_alive: bool,
        bounds: Bounds,
        patience: float = math.inf,
        holding: bool = False,
    ) -> None:
        self.head = head
        self._holding = holding  # what is complete may wait a moment for others
        self._patience = patience  # when (monotonic) an app is too slow to keep a client with it
        self._client = client
        self._bounds = bounds
        self.keep_alive = keep_alive
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
        self._iterator: Iterator[bytes] | None = None
        self._close: Callable[[], None] | None = None
        self._context: Context | None = None

    # ---- what the app calls

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info:
            try:
                if self.started:
                    raise exc_info[1].with_traceback(exc_info[2])
                self._forget()
            finally:
                exc_info = None  # no cycle through the traceback: PEP 3333
        elif self._shape is not None:
            raise AssertionError("start_response() was called twice without exc_info")
        shape = shape_of(status, headers)
        if shape.status < 200:
            raise ValueError(f"an app cannot answer with the interim status {shape.status}")
        self.say(shape)
        return self.write

    def write(self, data: bytes) -> None:
        """The imperative way of PEP 3333: waits while too many bytes are on their way."""
        self._take(data)
        full = self.pending >= self._bounds.room and not self._has_disk()
        if not self._client.flush() or (full and not self._client.wait()):
            raise ClientLeftError("the client has left")

    def early_hints(self, headers: Headers) -> None:
        """wsgi.early_hints: a response of status 103 ahead of the real one (RFC 8297)."""
        if self.head.version == "HTTP/1.1" and self._fresh:
            self._client.interim(early_hints(headers))

    # ---- what the worker calls

    def begin(self, app: Application, environ: Environ) -> None:
        """Call the app, and take what it yields while there is room."""
        self._context = copy_context()
        self._context.run(self._call, app, environ)

    def _call(self, app: Application, environ: Environ) -> None:
        try:
            iterable = app(environ, self.start_response)
        except BaseException as error:  # noqa: BLE001 (whatever an app raises is its 500)
            self.fail(error)
            return
        self.take(iterable)

    def take(self, iterable: Iterable[bytes]) -> None:
        """Take what the app has returned, while there is room; in the context of `begin`."""
        try:
            if type(iterable) is list or type(iterable) is tuple:
                self._whole(iterable)
                return
            self._close = getattr(iterable, "close", None)
            if isinstance(iterable, FileWrapper) and self._file(iterable):
                return
            iterator = iter(iterable)
        except BaseException as error:  # noqa: BLE001
            self.fail(error)
            return
        self.go_on(iterator)

    def add(self, data: bytes) -> None:
        """A block that somebody else has taken from the app."""
        self._take(data)

    def owe(self, close: Callable[[], None] | None) -> None:
        """Call that at the end: PEP 3333."""
        self._close = close

    def go_on(self, iterator: Iterator[bytes]) -> None:
        """Take what the app yields from there; in the context of `begin`."""
        self._iterator = iterator
        self._produce()

    def belong(self, context: Context) -> None:
        """What is still to be made is made in that context."""
        self._context = context

    def produce(self) -> None:
        """Take what the app yields until the bounds are reached, or all is there.

        No block waits for the next one (PEP 3333, "Buffering and Streaming").
        """
        if self._context is not None:
            self._context.run(self._produce)

    def _produce(self) -> None:
        iterator = self._iterator
        if iterator is None:
            return
        if self.broken:
            self._finish()
            return
        until = time.monotonic() + self._bounds.seconds
        self._stuck = False
        try:
            while self.pending < self._bounds.room or self._has_disk():
                try:
                    data = next(iterator)
                except StopIteration:
                    self._end()
                    return
                self._take(data)
                if self._mute:
                    self._end()
                    return
                if self._left == 0 and self._holding:
                    continue
                if not self._client.flush():
                    self.broken = True
                    self._finish()
                    return
                if time.monotonic() > until:
                    return
        except BaseException as error:  # noqa: BLE001
            self.fail(error)

    def rest(self, data: memoryview) -> None:
        """What is left to be sent of a whole response that somebody else has made."""
        self.out.append(data)
        self.pending = len(data)
        self._fresh = False
        self.started = self.done = True

    def fail(self, error: BaseException) -> None:
        """The app failed: a 500 if nothing has left yet, a broken connection otherwise."""
        if isinstance(error, ClientLeftError):
            self.broken = True
            self._finish()
            return
        self.failure = error
        if self.started:
            self.broken = True
        else:
            self._forget()
            self.say(shape_of("500 Internal Server Error", [("Content-Type", "text/plain")]))
            body = b"Internal Server Error\n"
            self._send_head(len(body))
            self._body(body)
        self._finish()

    def _forget(self) -> None:
        """Take back what has been produced, as nothing of it has left yet."""
        self.out.clear()
        self.pending = self.sent = 0
        self._left, self._chunked, self._fresh = None, False, True

    def finish(self) -> None:
        """Close the iterable: exactly once, whatever happened (PEP 3333)."""
        context, self._context = self._context, None  # it knows the request, which knows us
        if self._close is not None and context is not None:
            context.run(self._finish)
        elif self._close is not None or not self.done:
            self._finish()
        if self._spool is not None:
            self._spool.close()

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

    def _finish(self) -> None:
        self.done = True
        self._iterator = None
        close, self._close = self._close, None
        if close is not None:
            try:
                close()
            except BaseException as error:  # noqa: BLE001
                self.failure = self.failure or error

    # ---- framing

    def say(self, shape: Shape) -> None:
        """That is the response's head."""
        self._shape = shape
        self.status = shape.status

    def _whole(self, parts: list[bytes] | tuple[bytes, ...]) -> None:
        """A list or tuple is all there: its length is known."""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
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
        self._end()

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

    def _file(self, wrapper: FileWrapper) -> bool:
        """Send a regular file by the kernel, if it can be; False: iterate over it."""
        regular = wrapper.regular()
        if regular is None or not self._fresh:
            return False
        fd, offset, size = regular
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
        self._iterator = iter(())
        self.done = True  # but closed only when it is sent
        return True

    def _take(self, data: bytes) -> None:
        if type(data) is not bytes:
            if not isinstance(data, bytes):
                raise TypeError(f"the app yielded {type(data).__name__}, not bytes")
            data = bytes(data)
        if not data:
            return
        if self._fresh:
            self._send_head(None)
        self._body(data)

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

    def _end(self) -> None:
        """Nothing more comes: complete the framing."""
        if self._fresh:
            self._send_head(0)
        if self._chunked:
            self._put(http1.LAST_CHUNK)
        elif self._left and not self._mute:
            self.broken = True
            self.failure = self.failure or ValueError(
                f"the app sent {self._left} bytes fewer than its Content-Length says"
            )
        self._finish()


class TaggedResponse(Response):
    """A response that hands back the request's id in a header, unless the app has set that one."""

    __slots__ = ("_line", "_name")

    def tag(self, name: bytes, id: str) -> None:
        """Before the app is called: with that header."""
        self._name, self._line = name.lower(), b"%b: %b\r\n" % (name, id.encode())

    def say(self, shape: Shape) -> None:
        if b"\r\n%b:" % self._name not in shape.lines.lower():
            shape = replace(shape, lines=shape.lines + self._line)
        super().say(shape)
