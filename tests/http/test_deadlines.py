"""Each phase of a connection has its deadline, and only the client is held to it."""

import select
import time
from collections.abc import Iterable, Iterator

import pytest

from tests.http.apps import MIB, TEXT, at, hello, hourglass
from tests.http.conftest import Serve
from tests.http.serving import Environ, Gate, StartResponse, Wire


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_slow_head_is_a_408(serve_sync: Serve, part: bytes) -> None:
    client = serve_sync(hello, head_timeout=1).connect()
    client.send(part)
    assert client.reply().status == 408
    assert client.rest() == b""


def test_a_slow_head_on_a_kept_connection_is_a_408(serve_sync: Serve) -> None:
    client = serve_sync(hello, head_timeout=1).connect()
    client.get()
    client.send(b"G")
    assert client.reply().status == 408


def test_a_dripping_head_does_not_gain_time(serve_sync: Serve) -> None:
    client = serve_sync(hello, head_timeout=1).connect()
    client.send(b"GET / HTTP/1.1\r\nX: ")
    drops = 0
    while not select.select([client.sock], [], [], 0.1)[0]:
        client.send(b"x")
        drops += 1
    assert 5 <= drops <= 50
    assert client.reply().status == 408


def test_each_pipelined_head_has_its_own_deadline(serve_sync: Serve) -> None:
    """A client that is always in the middle of a head, but never for long."""
    client = serve_sync(hello, head_timeout=1).connect()
    client.send(b"GET /0 HTTP/1.1\r\n")
    end = time.monotonic() + 2.5
    number = 0
    while time.monotonic() < end:
        client.send(b"Host: a\r\n\r\nGET /%d HTTP/1.1\r\n" % (number + 1))
        assert client.reply().text == f"/{number}"
        number += 1


def test_a_slow_body_is_a_408(serve_sync: Serve) -> None:
    client = serve_sync(hello, body_timeout=1).connect()
    client.request("PUT", "/", "Content-Length: 10")
    assert client.reply().status == 408
    assert client.rest() == b""


def test_a_client_that_says_nothing_is_closed_without_a_word(serve_sync: Serve) -> None:
    assert serve_sync(hello, head_timeout=1).connect().rest() == b""


def test_an_idle_client_is_closed_without_a_word(serve_sync: Serve) -> None:
    client = serve_sync(hello, keepalive=1).connect()
    client.get()
    assert client.rest() == b""


def test_a_client_that_reads_nothing_is_left(serve: Serve, wire: Wire) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        try:
            while True:
                yield bytes(MIB)
        finally:
            wire.say("closed")

    client = serve(app, send_timeout=1).connect(buffer=4096)
    client.request("GET", "/")
    assert wire.hear() == "closed"


def test_a_response_that_is_given_up_does_not_look_whole(serve: Serve) -> None:
    """To HTTP/1.0 nothing but the end of the connection says where it ends."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        for _ in range(64):
            yield bytes(MIB)

    client = serve(app, send_timeout=1).connect(buffer=4096)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.head()["Transfer-Encoding"] is None
    hourglass(serve, 3)
    with pytest.raises(ConnectionResetError):
        client.rest()


@pytest.mark.parametrize("send_timeout", [1, 0])
def test_an_app_that_writes_to_a_slow_client_waits(serve: Serve, send_timeout: float) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", TEXT)
        for _ in range(16):
            write(bytes(MIB))
        return []

    client = serve(app, send_timeout=send_timeout).connect(buffer=65536)
    client.request("GET", "/")
    assert len(client.reply().body) == 16 * MIB


def test_an_app_that_takes_its_time_does_not_cost_its_client(
    serve_sync: Serve, gate: Gate, wire: Wire
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"a"
        wire.say("waits")
        gate.wait()
        yield b"b"

    client = serve_sync(app, send_timeout=1, head_timeout=1).connect()
    client.request("GET", "/")
    assert wire.hear() == "waits"
    hourglass(serve_sync, 2)
    gate.open()
    assert client.reply().text == "ab"


def test_a_request_that_came_in_time_is_served_after_a_long_one(
    serve_sync: Serve, gate: Gate, wire: Wire
) -> None:
    served = serve_sync(at(gate, wire), head_timeout=1, keepalive=1)
    new, kept, busy = served.connect(), served.connect(), served.connect()
    assert kept.get("/free").status == 200
    busy.request("GET", "/busy")
    assert wire.hear() == "/busy"
    new.request("GET", "/free")
    kept.request("GET", "/free")
    hourglass(serve_sync, 2)
    gate.open()
    for client in (busy, new, kept):
        assert client.reply().status == 200
