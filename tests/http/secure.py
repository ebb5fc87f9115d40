"""Workers behind TLS, clients that speak it, and apps for both."""

import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from prefork_sd import tls
from prefork_sd.listeners import HTTPS
from prefork_sd.workers.loop import LoopWorker
from prefork_sd.workers.sync import SyncWorker
from prefork_sd.workers.threads import ThreadsWorker
from tests.http.serving import PATIENCE, Client, Environ, Served, StartResponse

MEGABYTE = 1 << 20
CLOSE = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
KEEP = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
BLOCK = bytes(range(256)) * 4096  # a megabyte


class Secure(LoopWorker):
    """A worker as the arbiter makes it for a service with `tls_bind`."""

    def load(self) -> None:
        self.tls = tls.context(self.cfg, self.log.warning)
        self.sockets[0].name = HTTPS
        super().load()


class SecureSync(Secure, SyncWorker):
    pass


class SecureThreads(Secure, ThreadsWorker):
    pass


SECURE = {"sync": SecureSync, "threads": SecureThreads}


def secured(served: Served, context: ssl.SSLContext, **more: Any) -> Client:
    """A client whose handshake is done, and that takes no end for a good one but TLS's own."""
    client = served.connect(buffer=more.pop("buffer", 0))
    client.sock = context.wrap_socket(
        client.sock, server_hostname="localhost", suppress_ragged_eofs=False, **more
    )
    return client


def tls_of(client: Client) -> ssl.SSLSocket:
    assert isinstance(client.sock, ssl.SSLSocket)
    return client.sock


def served_by(client: Client) -> tuple[str, int]:
    host, port = client.sock.getpeername()
    return host, port


class Raw:
    """A client that sees every byte of TLS that it sends."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.sock = socket.create_connection(address, PATIENCE)

    def first_flight(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def shake_hands(self, step: int = 1 << 20) -> None:
        """With `step` bytes to a segment."""
        while True:
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            flight = self.outgoing.read()
            for place in range(0, len(flight), step):
                self.sock.sendall(flight[place : place + step])
            if done:
                return
            self.hear()

    def hear(self) -> None:
        data = self.sock.recv(65536)
        assert data
        self.incoming.write(data)

    def read_until(self, end: bytes, times: int) -> bytes:
        found = b""
        while found.count(end) < times:
            try:
                found += self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.hear()
        return found


# ---- apps


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def saying(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """What an app learns of the connection."""
    names = ("HTTPS", "wsgi.url_scheme", "SERVER_PORT", "REMOTE_ADDR")
    lines = [f"{name}={environ[name]}" for name in names]
    lines += [f"{name}={value}" for name, value in environ.items() if name.startswith("SSL_")]
    start_response("200 OK", [])
    return ["\n".join(lines).encode("latin-1")]


def in_one_piece(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [BLOCK * 20]


def in_blocks(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])
    for _ in range(20):
        yield from (BLOCK[:100], BLOCK[100:])
