"""While one response waits for its client, others are made: an app must not take one for another.

Where there is room for what has to wait, a response is made in one go.

Frameworks keep the request in hand in context variables, libraries keep connections to databases in
thread-locals, or check that they are used by the thread that made them.
"""

import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest
from flask import Flask, Response, request, stream_with_context

from prefork_sd.workers import calls
from tests.http.apps import TEXT, hello, hourglass
from tests.http.conftest import Serve
from tests.http.serving import App, Client, Environ, Gate, StartResponse, Wire


@pytest.fixture
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits in a file, so that responses are made in turns."""
    monkeypatch.setattr(calls, "DISK", 0)


interleaved = pytest.mark.usefixtures("no_disk")

PIECE, PIECES = 65536, 160  # 10 MiB: more than all the buffers on the way
Name = Callable[[], str]


def plain() -> App:
    """Each piece is the name of the request that a context variable knows, as frameworks do it."""
    current: ContextVar[Environ] = ContextVar("current")

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        token = current.set(environ)
        start_response("200 OK", TEXT)
        for _ in range(PIECES):
            yield current.get()["QUERY_STRING"].encode() * PIECE
        current.reset(token)  # raises ValueError in another context

    return app


def flask() -> App:
    app = Flask("interleaved")

    def stream() -> Any:
        pieces = (request.query_string.decode() * PIECE for _ in range(PIECES))
        return Response(stream_with_context(pieces), mimetype="text/plain")

    app.add_url_rule("/", view_func=stream)
    wsgi: App = app.wsgi_app
    return wsgi


@interleaved
@pytest.mark.parametrize("make", [plain, flask])
def test_streams_to_slow_clients_know_their_own_request(
    serve: Serve, make: Callable[[], App]
) -> None:
    served = serve(make())
    clients = {name: served.connect(buffer=4096) for name in "abc"}
    for name, client in clients.items():
        client.request("GET", f"/?{name}")
    for client in clients.values():
        client.head()  # each has begun
    for name, body in zip(clients, in_turns(list(clients.values())), strict=True):
        assert body == name.encode() * PIECE * PIECES


def in_turns(clients: list[Client]) -> list[bytes]:
    """The chunked bodies of all, a chunk of each at a time."""
    bodies = [bytearray() for _ in clients]
    for _ in range(PIECES + 1):
        for client, body in zip(clients, bodies, strict=True):
            body += client.chunk()
    return [bytes(body) for body in bodies]


class Homebound:
    """Pieces that can only be had by the thread that called the app."""

    def __init__(self, wire: Wire) -> None:
        self._wire, self._home, self._left = wire, threading.get_ident(), PIECES

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        assert threading.get_ident() == self._home
        if not self._left:
            raise StopIteration
        self._left -= 1
        return b"x" * PIECE

    def close(self) -> None:
        self._wire.say("closed at home" if threading.get_ident() == self._home else "elsewhere")


def homebound(wire: Wire) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/other":
            return hello(environ, start_response)
        start_response("200 OK", TEXT)
        return Homebound(wire)

    return app


@interleaved
def test_a_response_is_made_by_one_thread(serve_threads: Serve, wire: Wire) -> None:
    served = serve_threads(homebound(wire), threads=3)
    slow = [served.connect(buffer=4096) for _ in range(5)]
    others = [served.connect() for _ in range(3)]
    for client in slow:
        client.request("GET", "/")
    for client in slow:
        client.head()
    for client in others:
        assert client.get("/other").text == "/other"
    assert [len(body) for body in in_turns(slow)] == [PIECE * PIECES] * 5
    assert {wire.hear() for _ in slow} == {"closed at home"}


@interleaved
@pytest.mark.parametrize("leaves", [True, False], ids=["client leaves", "client does not read"])
def test_what_is_given_up_is_closed_by_its_thread(serve: Serve, wire: Wire, leaves: bool) -> None:
    served = serve(homebound(wire), threads=3, send_timeout=1)
    slow = [served.connect(buffer=4096) for _ in range(5)]
    for client in slow:
        client.request("GET", "/")
        client.head()
    if leaves:
        for client in slow:
            client.close()
    assert {wire.hear() for _ in slow} == {"closed at home"}
    if not leaves:
        with pytest.raises(ConnectionResetError):
            slow[0].rest()
    assert served.get("/other").text == "/other"


@interleaved
def test_each_end_of_what_is_given_up_has_its_time(
    serve_sync: Serve, gate: Gate, wire: Wire
) -> None:
    """A worker that many clients have left at once is not taken for one that hangs."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        if environ["PATH_INFO"] == "/other":
            return
        try:
            while True:
                yield bytes(PIECE)
        finally:
            wire.say("closes")
            gate.wait()

    served = serve_sync(app, timeout=4)
    slow = [served.connect(buffer=4096) for _ in range(2)]
    for client in slow:
        client.request("GET", "/")
        client.head()
    assert served.get("/other").status == 200  # all there is room for has been made
    with served.stopped():
        for client in slow:
            client.sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    deadlines = []
    for _ in slow:
        assert wire.hear() == "closes"
        deadlines.append(served.slot.deadline)
        hourglass(serve_sync, 1)
        gate.open()
    assert deadlines[1] - deadlines[0] > 0.9


def test_a_slow_client_does_not_mix_requests_of_a_thread(serve: Serve) -> None:
    """As with a connection to a database, which frameworks close at the end of each request."""
    local = threading.local()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        connected = local.__dict__.setdefault("database", [True])
        connected[0] = True
        start_response("200 OK", TEXT)

        def rows() -> Iterator[bytes]:
            for _ in range(PIECES if environ["PATH_INFO"] == "/rows" else 1):
                assert connected[0], "it was closed by another request"
                yield b"x" * PIECE
            connected[0] = False

        return rows()

    served = serve(app, threads=2)
    slow = [served.connect(buffer=4096) for _ in range(4)]
    for client in slow:
        client.request("GET", "/rows")
        client.head()
    for _ in range(5):
        assert len(served.get("/short").body) == PIECE
    assert [len(body) for body in in_turns(slow)] == [PIECE * PIECES] * 4
