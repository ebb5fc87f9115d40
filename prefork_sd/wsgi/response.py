"""One response: what the app says by start_response, write and its iterable, made into bytes."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from prefork_sd import http1
from prefork_sd.wsgi.environ import Environ
from prefork_sd.wsgi.files import FileWrapper
from prefork_sd.wsgi.framing import Bounds, Framing
from prefork_sd.wsgi.shapes import Headers, Shape, early_hints, shape_of

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Application = Callable[..., Iterable[bytes]]


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


class Response(Framing):
    """One response in the making.

    `begin` calls the app and `produce` takes what it yields, both in the app's slot. Neither raises
    what the app raised: it is kept in `failure`.

    A response is made in one go where that can be, however slow its client is: what an app has of a
    thread (a connection to a database, a transaction) is not for two requests in turns. What is
    beyond the bounds is made in turns all the same; so each response has its own context
    (contextvars), or an app that keeps its request there would take one for another.
    """

    __slots__ = ("_client", "_close", "_context", "_holding", "_iterator")

    def __init__(
        self,
        head: http1.Head,
        client: Client,
        keep_alive: bool,
        bounds: Bounds,
        patience: float = math.inf,
        holding: bool = False,
    ) -> None:
        super().__init__(head, keep_alive, bounds, patience)
        self._holding = holding  # what is complete may wait a moment for others
        self._client = client
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
                self.forget()
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
        self.add(data)
        full = not self.has_room()
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
                self.whole(iterable[0] if len(iterable) == 1 else b"".join(iterable))
                self._finish()
                return
            self._close = getattr(iterable, "close", None)
            if isinstance(iterable, FileWrapper) and self._by_file(iterable):
                return
            iterator = iter(iterable)
        except BaseException as error:  # noqa: BLE001
            self.fail(error)
            return
        self.go_on(iterator)

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
            while self.has_room():
                try:
                    data = next(iterator)
                except StopIteration:
                    self._end()
                    return
                self.add(data)
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
            self.sorry()
        self._finish()

    def finish(self) -> None:
        """Close the iterable: exactly once, whatever happened (PEP 3333)."""
        context, self._context = self._context, None  # it knows the request, which knows us
        if self._close is not None and context is not None:
            context.run(self._finish)
        elif self._close is not None or not self.done:
            self._finish()
        if self._spool is not None:
            self._spool.close()

    def _by_file(self, wrapper: FileWrapper) -> bool:
        """Send a regular file by the kernel, if it can be; False: iterate over it."""
        regular = wrapper.regular()
        if regular is None or not self.file(*regular):
            return False
        self._iterator = iter(())  # to be closed when it is sent
        return True

    def _end(self) -> None:
        self.complete()
        self._finish()

    def _finish(self) -> None:
        self.done = True
        self._iterator = None
        close, self._close = self._close, None
        if close is not None:
            try:
                close()
            except BaseException as error:  # noqa: BLE001
                self.failure = self.failure or error


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
