"""What most apps answer, whole and at once; anything else grows into a `Response`."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from prefork_sd import http1
from prefork_sd.wsgi.files import FileWrapper
from prefork_sd.wsgi.response import Client, ExcInfo, Response
from prefork_sd.wsgi.shapes import Headers, Shape, early_hints, shape_of

Growing = Callable[[http1.Head, Any], Response]

END: Any = object()  # of an iterable
GROWN = shape_of("500 Internal Server Error", [])  # no reply has that one: its length is unknown
usual = shape_of("200 OK", [("Content-Length", "0")])  # what was said last; most repeat theirs


class Reply:
    """The answer to a plain request: a head, and at once as many bytes as it says.

    It costs a fraction of a `Response`, into which it grows where the app does anything else;
    `growing` makes that one. Of its request it has what a record tells (`id`, `method`, `path`).
    """

    growing: Growing
    head: http1.Head
    client: Client | None  # None: it is over
    id: str
    shape: Shape | None  # None: nothing was said yet; GROWN: to somebody else
    # as long as nothing else is known; what every reply sets costs more than what few change
    grown: Response | None = None
    body = b""  # what has been made, while it is not certain that it is all

    @classmethod
    def of(cls, growing: Growing) -> type["Reply"]:
        """The class of those that grow that way."""
        return type("Reply", (cls,), {"growing": staticmethod(growing)})

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
        global usual
        if self.shape is None and exc_info is None:
            shape = usual
            if shape.said != status or shape.headers != headers:
                shape = shape_of(status, headers)
                if not shape.plain:
                    return self.grow().start_response(status, headers, exc_info)
                usual = shape
            self.shape = shape
            return self
        return self.grow().start_response(status, headers, exc_info)

    def __call__(self, said: bytes | Headers) -> None:
        """Both what PEP 3333 calls `write`, and `wsgi.early_hints`, which is given a list.

        Hardly any app calls either; to make two methods for each request would cost more.
        """
        if isinstance(said, list):
            self.early_hints(said)
        else:
            self.grow().write(said)

    def early_hints(self, headers: Headers) -> None:
        """A response of status 103 ahead of the real one (RFC 8297)."""
        if self.grown is not None:
            self.grown.early_hints(headers)
        elif self.client is not None:
            self.client.interim(early_hints(headers))

    # ---- what the worker calls

    def settle(self, iterable: Iterable[bytes], quick: bool) -> bytes | None:
        """Take what the app has returned, in its context: the body, of which `shape` is the head.

        None: it is not that simple, and `grown` has it. What the app does after its last block is
        waited for only where it is quick.
        """
        shape = self.shape
        if quick and type(iterable) is not list and shape is not None and shape is not GROWN:
            return self._gathered(iterable, shape)
        self.grow().take(iterable)
        return None

    def fail(self, error: BaseException) -> None:
        """The app failed: a 500."""
        self.grow().fail(error)

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
            if self.client is None:
                raise RuntimeError("the response is over")
            self.grown = self.growing(self.head, self.client)
            if self.shape is not None:
                self.grown.say(self.shape)
            self.shape = GROWN
            if self.body:
                self.grown.add(self.body)
        return self.grown
