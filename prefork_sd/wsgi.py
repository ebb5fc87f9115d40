"""WSGI (PEP 3333): a request head becomes an environ, what the app answers becomes bytes."""

import io
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass
from email.utils import formatdate
from types import TracebackType
from typing import IO, Any, Protocol
from urllib.parse import unquote_to_bytes

from prefork_sd import http1

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Application = Callable[..., Iterable[bytes]]

SMALL = 8192  # bytes that are joined rather than sent as pieces
SHAPES = 1024  # response heads remembered, for the apps that repeat theirs
SERVER = b"Server: prefork-sd\r\n"
CLOSE = b"Connection: close\r\n"
ROUND = 0.05  # seconds that an app may yield before others have their turn
KEEP_ALIVE = b"Connection: keep-alive\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class FileWrapper:
    """wsgi.file_wrapper: a file in blocks; a regular one goes out by sendfile(2)."""

    def __init__(self, filelike: IO[bytes], block_size: int = 65536) -> None:
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        while data := self.filelike.read(self.block_size):
            yield data

    def close(self) -> None:
        if close := getattr(self.filelike, "close", None):
            close()

    def regular(self) -> tuple[int, int, int] | None:
        """(fd, offset, bytes left) if the kernel can send it, or None.

        Only what is read as it stands on the disk: a GzipFile has a descriptor, too. Files of the
        kernel (/proc) do not say their size.
        """
        try:
            if not isinstance(getattr(self.filelike, "raw", self.filelike), io.FileIO):
                return None
            fd, offset = self.filelike.fileno(), self.filelike.tell()
            status = os.fstat(fd)
        except (AttributeError, OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return None
        return fd, offset, max(0, status.st_size - offset)


@dataclass(slots=True)
class FileSlice:
    """A part of an open file on its way to the client."""

    fd: int
    offset: int
    left: int


Piece = bytes | memoryview | FileSlice


@dataclass(frozen=True, slots=True)
class Shape:
    """A checked and encoded response head, but for the lines that we add."""

    status: int
    lines: bytes
    length: int | None
    ours: bytes  # Server, unless the app said its own
    dated: bool

    @property
    def bodiless(self) -> bool:
        return self.status in (204, 304)


_shapes: dict[tuple[str, tuple[tuple[str, str], ...]], Shape] = {}


def shape_of(status: str, headers: Headers) -> Shape:
    """Check and encode; raises ValueError or TypeError which name what PEP 3333 forbids."""
    try:
        key = (status, tuple(headers))
        if shape := _shapes.get(key):
            return shape
    except TypeError:
        raise TypeError("headers must be a list of tuples of two str") from None
    code = http1.check_status(status)
    http1.check_headers(headers)
    names = [name.lower() for name, _ in headers]
    lengths = [value.strip() for name, value in headers if name.lower() == "content-length"]
    if len(lengths) > 1 or any(not (one.isascii() and one.isdigit()) for one in lengths):
        raise ValueError(f"Content-Length must be one number, not {', '.join(lengths)}")
    if code == 204:  # says nothing of a length: RFC 9110, 8.6
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
    shape = Shape(
        status=code,
        lines=http1.encode_head(status, headers, b"").removesuffix(b"\r\n"),  # ours follow
        length=int(lengths.pop()) if lengths else None,
        ours=b"" if "server" in names else SERVER,
        dated="date" in names,
    )
    if len(_shapes) >= SHAPES:
        _shapes.clear()
    _shapes[key] = shape
    return shape


class _Clock:
    """The Date line (RFC 9110, 6.6.1), made once a second."""

    second = -1
    line = b""

    @classmethod
    def date(cls) -> bytes:
        second = int(time.time())
        if second != cls.second:
            cls.second = second
            cls.line = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
        return cls.line


def base_environ(
    *,
    server_name: str,
    server_port: str,
    scheme: str,
    script_name: str,
    multithread: bool,
    multiprocess: bool,
) -> Environ:
    """What does not change from one request of a listener to the next."""
    return {
        "SERVER_NAME": server_name,
        "SERVER_PORT": server_port,
        "SERVER_SOFTWARE": "prefork-sd",
        "SCRIPT_NAME": script_name,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
        **({"HTTPS": "on"} if scheme == "https" else {}),
    }


def make_environ(
    base: Mapping[str, Any], remote: tuple[str, str], head: http1.Head, body: IO[bytes]
) -> Environ:
    """The environ of one request: PEP 3333, "environ Variables". `remote`: address and port."""
    path = head.path
    environ = {**base, **head.environ}
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = remote
    environ["REQUEST_METHOD"] = head.method
    environ["SERVER_PROTOCOL"] = head.version
    environ["RAW_URI"] = environ["REQUEST_URI"] = head.target
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    if (mount := base["SCRIPT_NAME"]) and f"{path}/".startswith(f"{mount}/"):
        path = path[len(mount) :]
    environ["PATH_INFO"] = path
    environ["QUERY_STRING"] = head.query
    environ["wsgi.input"] = body
    return environ


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

    While one response waits for its client, others are made by the same thread; so each has its own
    context (contextvars), or an app that keeps its request there would take one for another.
    """

    __slots__ = (
        "_chunked",
        "_client",
        "_close",
        "_context",
        "_fresh",
        "_iterator",
        "_left",
        "_patience",
        "_room",
        "_shape",
        "broken",
        "done",
        "failure",
        "head",
        "keep_alive",
        "out",
        "pending",
        "sent",
        "started",
    )

    def __init__(
        self,
        head: http1.Head,
        client: Client,
        *,
        keep_alive: bool,
        room: int,
        patience: float = math.inf,
    ) -> None:
        self.head = head
        self._patience = patience  # when (monotonic) an app is too slow to keep a client with it
        self._client = client
        self._room = room  # bytes that may wait for the client before the app has to wait
        self.keep_alive = keep_alive
        self.out: list[Piece] = []
        self.pending = 0  # bytes in `out`, but for files
        self.sent = 0  # bytes of the body produced so far
        self.done = False
        self.broken = False
        self.failure: BaseException | None = None
        self.started = False  # whether any byte has left for the client: set by the connection
        self._shape: Shape | None = None
        self._fresh = True
        self._chunked = False
        self._left: int | None = None
        self._iterator: Iterator[bytes] | None = None
        self._close: Callable[[], None] | None = None
        self._context: Context | None = None

    @property
    def status(self) -> int:
        return self._shape.status if self._shape else 500

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
        self._shape = shape
        return self.write

    def write(self, data: bytes) -> None:
        """The imperative way of PEP 3333: waits while too many bytes are on their way."""
        self._take(data)
        if not self._client.flush() or (self.pending >= self._room and not self._client.wait()):
            raise ClientLeftError("the client has left")

    def early_hints(self, headers: Headers) -> None:
        """wsgi.early_hints: a response of status 103 ahead of the real one (RFC 8297)."""
        if self.head.version == "HTTP/1.1" and self._fresh:
            lines = shape_of("103 Early Hints", headers).lines
            self._client.interim(lines + b"\r\n")

    # ---- what the worker calls

    def begin(self, app: Application, environ: Environ) -> None:
        """Call the app, and take what it yields while there is room."""
        self._context = copy_context()
        self._context.run(self._call, app, environ)

    def _call(self, app: Application, environ: Environ) -> None:
        try:
            iterable = app(environ, self.start_response)
            self._close = getattr(iterable, "close", None)
            if type(iterable) is list or type(iterable) is tuple:
                self._whole(iterable)
                return
            if isinstance(iterable, FileWrapper) and self._file(iterable):
                return
            self._iterator = iter(iterable)
        except BaseException as error:  # noqa: BLE001 (whatever an app raises is its 500)
            self.fail(error)
            return
        self._produce()

    def produce(self) -> None:
        """Take what the app yields until there is no room, a round is over, or all is there.

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
        until = time.monotonic() + ROUND
        try:
            while self.pending < self._room:
                try:
                    data = next(iterator)
                except StopIteration:
                    self._end()
                    return
                self._take(data)
                if self._mute:
                    self._end()
                    return
                if not self._client.flush():
                    self.broken = True
                    self._finish()
                    return
                if time.monotonic() > until:
                    return
        except BaseException as error:  # noqa: BLE001
            self.fail(error)

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
            self._shape = shape_of("500 Internal Server Error", [("Content-Type", "text/plain")])
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
        if self._close is None or self._context is None:
            self._finish()
        else:
            self._context.run(self._finish)

    def abandon(self) -> None:
        """Nobody will read the rest: all that is left to be made is its end, by `produce`."""
        self.broken = True
        self.out.clear()
        self.pending = 0

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

    def _whole(self, parts: list[bytes] | tuple[bytes, ...]) -> None:
        """A list or tuple is all there: its length is known."""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if type(data) is not bytes:
            raise TypeError(f"the app yielded {type(data).__name__}, not bytes")
        if self._fresh:
            self._send_head(len(data))
        if data:
            self._body(data)
        self._end()

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
        if self.head.method != "HEAD" and not self._shape.bodiless:
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
        lines = [shape.lines]
        if shape.bodiless:
            self._left = 0
        elif shape.length is not None:
            self._left = shape.length
        elif length is not None and (length or self.head.method != "HEAD"):
            self._left = length
            lines.append(b"Content-Length: %d\r\n" % length)
        elif self.head.version == "HTTP/1.1":
            self._chunked = self.head.method != "HEAD"
            lines.append(CHUNKED)
        else:
            self.keep_alive = False
        if not shape.dated:
            lines.append(_Clock.date())
        if shape.ours:
            lines.append(shape.ours)
        if not self.keep_alive or time.monotonic() > self._patience:
            self.keep_alive = False
            lines.append(CLOSE)
        elif self.head.version == "HTTP/1.0":
            lines.append(KEEP_ALIVE)
        lines.append(b"\r\n")
        self._put(b"".join(lines))

    @property
    def _mute(self) -> bool:
        """Whether the head was all there is to send, and nobody will ever read more."""
        shape = self._shape
        if self._fresh or shape is None:  # the head is still to come
            return False
        return self.head.method == "HEAD" or shape.bodiless

    def _body(self, data: bytes) -> None:
        shape = self._shape
        if self.head.method == "HEAD" or (shape is not None and shape.bodiless):
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
        self.pending += len(data)
        if out and len(data) < SMALL and type(last := out[-1]) is bytes and len(last) < SMALL:
            out[-1] = last + data  # one piece is cheaper to send than two
        else:
            out.append(data)

    def _end(self) -> None:
        """Nothing more comes: complete the framing."""
        if self._fresh:
            self._send_head(0)
        if self._chunked:
            self._put(http1.LAST_CHUNK)
        elif self._left and self.head.method != "HEAD":
            self.broken = True
            self.failure = self.failure or ValueError(
                f"the app sent {self._left} bytes fewer than its Content-Length says"
            )
        self._finish()
