"""What most apps answer, whole and at once; anything else grows into a `Response`."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from prefork_sd import http1
from prefork_sd.wsgi.environ import Environ
from prefork_sd.wsgi.files import FileWrapper
from prefork_sd.wsgi.response import Application, Client, ExcInfo, Response
from prefork_sd.wsgi.shapes import Headers, Shape, early_hints, shape_of

Growing = Callable[[http1.Head, Any], Response]

END: Any = object()  # of an iterable


def over(head: http1.Head, client: Any) -> Response:
    """What a reply grows into that is on its way."""
    raise RuntimeError("the response is over")


class Reply:
    """The answer to a plain request: a head, and at once as many bytes as it says.

    It costs a fraction of a `Response`, into which it grows where the app does anything else;
    `growing` makes that one. Of its request it has what a record tells (`id`, `method`, `path`).
    """

    head: http1.Head
    client: Client
    id: str
    growing: Growing
    # as long as nothing else is known; what every reply sets costs more than what few change
    shape: Shape | None = None
    grown: Response | None = None
    body = b""  # what has been made, while it is not certain that it is all

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        return self.head.path

    # ---- what the app calls

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info is None and self.shape is None and self.grown is None:
            shape = shape_of(status, headers)
            if shape.plain:
                self.shape = shape
                return self.write
        return self.grow().start_response(status, headers, exc_info)

    def write(self, data: bytes) -> None:
        """The imperative way of PEP 3333."""
        self.grow().write(data)

    def early_hints(self, headers: Headers) -> None:
        """wsgi.early_hints: a response of status 103 ahead of the real one (RFC 8297)."""
        if self.grown is not None:
            self.grown.early_hints(headers)
        elif self.growing is not over:
            self.client.interim(early_hints(headers))

    # ---- what the worker calls

    def whole(self, app: Application, environ: Environ, quick: bool) -> bytes | None:
        """Call the app, in a context of its own: the body, of which `shape` is the head.

        None: it is not that simple, and `grown` has it. What the app does after its last block is
        waited for only where it is quick.
        """
        try:
            iterable = app(environ, self.start_response)
        except BaseException as error:  # noqa: BLE001 (whatever an app raises is its 500)
            self.grow().fail(error)
            return None
        shape = self.shape
        if shape is not None and self.grown is None:
            if type(iterable) is not list:
                if quick:
                    return self._gathered(iterable, shape)
            elif len(iterable) == 1:
                data = iterable[0]
                if type(data) is bytes and len(data) == shape.length:
                    self.growing = over
                    return data
        self.grow().take(iterable)
        return None

    def _gathered(self, iterable: Iterable[bytes], shape: Shape) -> bytes | None:
        """The body from what has to be iterated over, if the first piece is all of it."""
        close: Callable[[], None] | None = None
        data = more = END
        whole = False
        try:
            if isinstance(iterable, FileWrapper):
                self.grow().take(iterable)
                return None
            close = getattr(iterable, "close", None)
            iterator = iter(iterable)
            data = next(iterator, END)
            if type(data) is bytes and len(data) == shape.length and self.grown is None:
                self.body = data
                more = next(iterator, END)
                self.body = b""
                if self.grown is not None:
                    data = END  # it has that
                elif more is END:
                    whole = True
                    if close is not None:
                        close()
                    self.growing = over
                    return data
        except BaseException as error:  # noqa: BLE001
            self.body = b""
            response = self.grow()
            if whole:  # but for what `close` raised, it is
                response.take([data])
                response.failure = error
            else:
                response.owe(close)
                response.fail(error)
            return None
        response = self.grow()
        response.owe(close)
        response.go_on(chain([one for one in (data, more) if one is not END], iterator))
        return None

    def grow(self) -> Response:
        """The same answer, as one that can be anything."""
        if self.grown is None:
            self.grown = self.growing(self.head, self.client)
            if self.shape is not None:
                self.grown.say(self.shape)
            if self.body:
                self.grown.add(self.body)
        return self.grown
