"""Small apps for tests, and what they share."""

from collections.abc import Iterable, Iterator

from tests.http.conftest import Serve
from tests.http.serving import App, Environ, Gate, StartResponse, Wire

TEXT = [("Content-Type", "text/plain")]
MIB = 1 << 20


def says(body: Iterable[bytes], status: str = "200 OK", *headers: tuple[str, str]) -> App:
    """An app that always answers with that."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [*TEXT, *headers])
        return body

    return app


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
    return [body]


class Closing:
    """An iterable that says when it is closed; the last block can be an error."""

    def __init__(self, wire: Wire, *blocks: bytes | BaseException) -> None:
        self.wire = wire
        self.blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks:
            if isinstance(block, BaseException):
                raise block
            yield block

    def close(self) -> None:
        self.wire.say("closed")


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [environ["PATH_INFO"].encode()]


def big(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/big":
        start_response("200 OK", TEXT)
        return [b"x" * (10 * MIB)]
    return hello(environ, start_response)


def at(gate: Gate, wire: Wire) -> App:
    """An app that says where it is, and waits at the gate; but for /free."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/free":
            wire.say(environ["PATH_INFO"])
            gate.wait()
        return hello(environ, start_response)

    return app


def hourglass(serve: Serve, seconds: float) -> None:
    """Return when that time has passed, as another worker's clock says."""
    client = serve(hello, head_timeout=seconds).connect()
    client.send(b"GET")
    assert client.reply().status == 408
