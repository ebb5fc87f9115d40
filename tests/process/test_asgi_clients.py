"""Clients of an `asgi` worker: their limits, their proxies, and how they are reached."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from prefork_sd.proxyprotocol import SIGNATURE
from tests.certificates import make
from tests.process.systemd import Systemd

APP = Path(__file__).with_name("asgiapp.py")

READING = """
async def reading(scope, receive, send):
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})

plain = application

async def application(scope, receive, send):
    await (reading if scope.get("method") == "POST" else plain)(scope, receive, send)
"""
WHOLE = b"GET / HTTP/1.1\r\nHost: service\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: service\r\n"


@pytest.fixture
def asgi(systemd: Systemd) -> Systemd:
    """The service with the ASGI app and one that reads bodies, not started."""
    systemd.write("app.py", f"{APP.read_text()}\n{READING}")
    return systemd


@pytest.fixture
def peer(asgi: Systemd) -> Iterator[socket.socket]:
    """A bare connection; the test starts the service."""
    asgi.listen()
    with closing(socket.socket()) as sock:
        sock.settimeout(10)
        sock.connect(asgi.listeners[0][1].getsockname())
        yield sock


def all_of(sock: socket.socket) -> bytes:
    """What comes until the end."""
    text = b""
    while data := sock.recv(65536):
        text += data
    return text


def test_a_body_within_the_limit(asgi: Systemd, peer: socket.socket) -> None:
    asgi.up(workers=1, limit_request_body="1M")
    peer.sendall(HEAD + b"Connection: close\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200000)
    assert all_of(peer).endswith(b"200000\r\n0\r\n\r\n")


def test_a_body_that_says_it_is_too_large(asgi: Systemd, peer: socket.socket) -> None:
    asgi.up(workers=1, limit_request_body="1K")
    peer.sendall(HEAD + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000)
    assert peer.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_becomes_too_large(asgi: Systemd, peer: socket.socket) -> None:
    asgi.up(workers=1, limit_request_body="1K")
    peer.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000)
    assert peer.recv(100).startswith(b"HTTP/1.1 413 ")
    assert asgi.get().version == "1"
    assert not asgi.all_records(level="error")


def test_a_client_that_stops_in_its_body(asgi: Systemd, peer: socket.socket) -> None:
    asgi.up(workers=1, body_timeout=1)
    peer.sendall(HEAD + b"Content-Length: 2000\r\n\r\nxxx")
    assert all_of(peer).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("said", [b"", b"GET / HT"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_client_that_stops_in_its_head(
    asgi: Systemd, peer: socket.socket, said: bytes, before: int
) -> None:
    asgi.up(workers=1, head_timeout=1, keepalive=1)
    for _ in range(before):
        peer.sendall(WHOLE)
        assert peer.recv(1000).startswith(b"HTTP/1.1 200 ")
    began = time.monotonic()
    peer.sendall(said)
    assert b"HTTP/1.1" not in all_of(peer)
    assert 0.5 < time.monotonic() - began < 5


def test_a_head_without_an_end(asgi: Systemd, peer: socket.socket) -> None:
    asgi.up(workers=1)
    peer.sendall(WHOLE.removesuffix(b"\r\n"))
    with pytest.raises(ConnectionError):
        peer.sendall(b"Name: value\r\n" * 1_000_000)


def test_nonsense_is_refused_without_an_error(asgi: Systemd, peer: socket.socket) -> None:
    asgi.up(workers=1)
    peer.sendall(b"nonsense\r\n\r\n")
    assert all_of(peer).startswith(b"HTTP/1.1 400 ")
    assert not asgi.all_records(level="error")
    assert not asgi.all_records(level="warn")


def test_keepalive_0_closes_after_each_response(asgi: Systemd) -> None:
    asgi.up(workers=1, keepalive=0)
    assert asgi.client().get().headers["Connection"] == "close"


def test_an_idle_client_is_let_go(asgi: Systemd, peer: socket.socket) -> None:
    asgi.up(workers=1, keepalive=1)
    peer.sendall(WHOLE)
    assert all_of(peer).endswith(b"0\r\n\r\n")


def test_no_more_connections_than_allowed(asgi: Systemd) -> None:
    asgi.up(workers=1, worker_connections=2)
    first, second = asgi.client(), asgi.client()
    assert {client.get().version for client in (first, second)} == {"1"}
    third = asgi.client().send("/")
    asgi.listen_for(0.5)
    assert asgi.status()["requests"] == 2
    first.close()
    assert third.answer().version == "1"


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\n",
        SIGNATURE + b"\x21\x11\x00\x0c" + bytes.fromhex("cb007107 7f000001 1267 0050"),
    ],
)
def test_a_proxy_introduces_its_client(asgi: Systemd, peer: socket.socket, header: bytes) -> None:
    asgi.up(workers=1, proxy_protocol=True)
    peer.sendall(header + b"GET /told HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"'client': ('203.0.113.7', 4711)" in all_of(peer)


def test_a_proxy_that_introduces_nobody_is_let_go(asgi: Systemd, peer: socket.socket) -> None:
    asgi.up(workers=1, proxy_protocol=True)
    peer.sendall(b"GET /told HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        all_of(peer)


def test_a_unix_socket(asgi: Systemd) -> None:
    asgi.listen(path="shop.sock")
    asgi.up(workers=1)
    assert asgi.get().version == "1"
    assert "'client': None" in asgi.get("/told").text


def test_tls(asgi: Systemd, tmp_path: Path) -> None:
    pair = make(tmp_path, "first")
    listener = asgi.listen("https")
    asgi.up(workers=1, tls_bind=["127.0.0.1:0"], **pair.settings())
    with closing(socket.create_connection(listener.getsockname(), 10)) as sock:
        connection = HTTPConnection("service")
        connection.sock = pair.client().wrap_socket(sock, server_hostname="localhost")
        connection.request("GET", "/told")
        assert b"'scheme': 'https'" in connection.getresponse().read()
        connection.close()
