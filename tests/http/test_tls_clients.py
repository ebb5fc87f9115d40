"""Slow, strange and broken clients of a TLS port: each harms nobody but itself."""

import os
import socket
import ssl
from collections.abc import Callable, Iterable

import pytest

from prefork_sd import http1, tls
from prefork_sd.building import build
from prefork_sd.workers import tlsconnection
from prefork_sd.workers.terms import Terms
from prefork_sd.workers.tlsconnection import TlsConnection
from tests.certificates import Pair
from tests.http.secure import BLOCK, CLOSE, KEEP, Raw, hello, in_blocks, secured, served_by
from tests.http.serving import Environ, Served, StartResponse, Wire, readable

Serve = Callable[..., Served]


def test_slow_handshakes_hold_up_nobody(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    served = serve_tls(hello)
    address = served_by(served.connect())
    silent = [served.connect() for _ in range(30)]
    begun = []
    for share in range(30):
        raw = Raw(address, trusting)
        flight = raw.first_flight()
        raw.sock.sendall(flight[: 1 + share * len(flight) // 31])
        begun.append(raw)
    for _ in range(20):
        client = secured(served, trusting)
        assert client.get().body == b"hello"
        client.close()
    assert all(not readable(client.sock.fileno(), 0) for client in silent)
    for raw in begun:
        raw.sock.close()


def test_a_handshake_byte_by_byte(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    served = serve_tls(hello)
    raw = Raw(served_by(served.connect()), trusting)
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.shake_hands(step=1)
    raw.tls.write(KEEP)
    for byte in raw.outgoing.read():
        raw.sock.sendall(bytes([byte]))
    assert raw.read_until(b"hello", 1).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("share", [0, 100])
def test_a_handshake_has_a_deadline(serve_tls: Serve, trusting: ssl.SSLContext, share: int) -> None:
    served = serve_tls(hello, head_timeout=0.2)
    raw = Raw(served_by(served.connect()), trusting)
    raw.sock.sendall(raw.first_flight()[:share])
    assert raw.sock.recv(1) == b""
    assert secured(served, trusting).get().body == b"hello"


def test_after_its_handshake_a_client_has_to_say_something(
    serve_tls: Serve, trusting: ssl.SSLContext
) -> None:
    client = secured(serve_tls(hello, head_timeout=0.2), trusting)
    assert client.rest() == b""
    begun = secured(serve_tls(hello, head_timeout=0.2), trusting)
    begun.send(KEEP[:20])
    assert begun.reply().status == 408
    assert begun.rest() == b""


@pytest.mark.parametrize(
    "garbage",
    [b"\0", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 600,
     os.urandom(5000), b"\x16\x03\x01\xff\xff" + bytes(70000), b"\x80\x80" + bytes(200)],
)  # fmt: skip
def test_garbage_is_refused(serve_tls: Serve, trusting: ssl.SSLContext, garbage: bytes) -> None:
    served = serve_tls(hello, head_timeout=5)
    for _ in range(3):
        client = served.connect()
        client.send(garbage)
        client.end()
        client.rest()  # at most an alert, and then the end
        served.connect().close()
    client = secured(served, trusting)
    assert client.get().body == b"hello"
    client.close()
    assert served.stop().status == 0


def test_plain_http_is_told_so(serve_tls: Serve) -> None:
    reply = serve_tls(hello).get()
    assert (reply.status, reply.text) == (400, "400 Bad Request: this port is for https\n")


def test_a_cut_off_handshake_and_a_cut_off_request(
    serve_tls: Serve, trusting: ssl.SSLContext
) -> None:
    served = serve_tls(hello)
    raw = Raw(served_by(served.connect()), trusting)
    raw.sock.sendall(raw.first_flight()[:100])
    raw.sock.close()
    client = secured(served, trusting)
    client.send(KEEP[:30])
    client.close()
    damaged = Raw(served_by(served.connect()), trusting)
    damaged.shake_hands()
    damaged.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    while damaged.sock.recv(65536):  # tickets, an alert, the end
        pass
    assert secured(served, trusting).get().body == b"hello"


def test_a_client_that_ends_with_its_request_is_answered(
    serve_tls: Serve, trusting: ssl.SSLContext
) -> None:
    served = serve_tls(hello)
    for polite in (True, False):
        raw = Raw(served_by(served.connect()), trusting)
        raw.shake_hands()
        raw.tls.write(CLOSE)
        if polite:
            with pytest.raises(ssl.SSLWantReadError):
                raw.tls.unwrap()
        raw.sock.sendall(raw.outgoing.read())
        raw.sock.shutdown(socket.SHUT_WR)
        said = b""
        while piece := raw.sock.recv(65536):
            said += piece
        assert len(said) > 150


def test_a_client_that_reads_nothing_waits_alone(
    serve_tls: Serve, trusting: ssl.SSLContext, wire: Wire
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        wire.say("large")
        return in_blocks(environ, start_response)

    served = serve_tls(app)
    slow = [secured(served, trusting, buffer=4096) for _ in range(3)]
    for client in slow:
        client.request("GET", "/large")
        assert wire.hear() == "large"
    for _ in range(5):
        assert secured(served, trusting).get().body == b"hello"
    for client in slow:
        assert client.reply().body == BLOCK * 20


def test_answers_to_a_client_that_does_not_read_have_a_bound(
    pair: Pair, trusting: ssl.SSLContext
) -> None:
    """KeyUpdate is answered by the layer itself; one who sends nothing else is thrown out."""
    cfg = build({"app": "a:b", "tls_bind": "127.0.0.1:1", **pair.settings()})
    context = tls.context(cfg, pytest.fail)
    assert context is not None
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    terms = Terms({}, http1.Limits(), body_buffer=0, send_timeout=1)
    connection = TlsConnection(context, terms, ours.detach(), ("", ""))
    with theirs:
        connection._outgoing.write(bytes(tlsconnection.MOST_UNASKED + 1))
        connection._shaken = True
        theirs.sendall(b"\x17")
        with pytest.raises(ConnectionAbortedError):
            connection.receive()
        connection.abort()
