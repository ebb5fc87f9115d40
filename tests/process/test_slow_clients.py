"""One `sync` worker, a crowd of slow clients, and a fast one that does not notice them."""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.process.crowd import GET, Crowd, begin, percentile
from tests.process.systemd import Systemd

MIB = 1 << 20
SLOW = 0.050  # seconds that 99 of 100 answers to the fast client stay below
ROUNDS = 400  # requests of the fast client; before each of them every dripper sends one byte

LARGE = f"""
def whole(environ):
    return b"x" * {10 * MIB}

def streamed(environ):
    return (b"x" * 65536 for _ in range({10 * MIB // 65536}))

def count(environ):
    return str(len(environ["wsgi.input"].read())).encode()

PAGES |= {{"/whole": whole, "/count": count}}
plain = application

def application(environ, start_response):
    if environ["PATH_INFO"] != "/streamed":
        return plain(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return streamed(environ)
"""


@pytest.fixture
def crowd(systemd: Systemd) -> Iterator[Crowd]:
    """A crowd before a single worker that runs one request at a time."""
    systemd.deploy(more=LARGE)
    systemd.up(workers=1, head_timeout=120, body_timeout=120, send_timeout=120, keepalive=120)
    with Crowd(systemd.listeners[0][1]) as crowd:
        yield crowd


class Slow:
    """200 idle clients, 50 that drip a head, 50 that drip a body, 20 that never read 10 MiB."""

    def __init__(self, crowd: Crowd) -> None:
        self.idle = [crowd.idle() for _ in range(200)]
        self.heads = [crowd.join(begin(b"GET", b"/", b"X: ")) for _ in range(50)]
        length = b"Content-Length: %d\r\n\r\n" % (ROUNDS + 1)
        self.bodies = [crowd.join(begin(b"PUT", b"/count", length)) for _ in range(50)]
        self.whole = [crowd.join(ask(b"/whole"), buffer=4096) for _ in range(10)]
        self.streamed = [crowd.join(ask(b"/streamed"), buffer=4096) for _ in range(10)]
        for one in (*self.idle, *self.heads, *self.bodies):
            crowd.watch(one)

    def drip(self) -> None:
        for one in (*self.heads, *self.bodies):
            one.send(b"x")


def ask(path: bytes) -> bytes:
    return begin(b"GET", path, b"Connection: close\r\n\r\n")


def body_of(sock: socket.socket) -> bytes:
    """All of a response whose connection ends with it, but for its head."""
    data = bytearray()
    while piece := sock.recv(MIB):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return bytes(body)


def test_a_fast_client_does_not_notice_slow_ones(crowd: Crowd) -> None:
    slow = Slow(crowd)
    kept, new = [], []
    fast = crowd.idle()
    crowd.watch(fast)
    for _ in range(ROUNDS // 2):
        slow.drip()
        begun = time.monotonic()
        fast.sendall(GET)
        kept.append(crowd.answered(fast) - begun)

        slow.drip()
        begun = time.monotonic()
        with crowd.guest() as guest:
            crowd.watch(guest)
            guest.sendall(GET)
            new.append(crowd.answered(guest) - begun)
            crowd.unwatch(guest)
    assert percentile(kept, 0.99) < SLOW
    assert percentile(new, 0.99) < SLOW
    nothing_was_lost(slow)


def nothing_was_lost(slow: Slow) -> None:
    """Each of the slow ones gets its answer in the end."""
    for head in slow.heads:
        head.sendall(b"\r\n\r\n")
    for body in slow.bodies:
        body.sendall(b"x")
    for idle in slow.idle:
        idle.sendall(GET)
    for one in (*slow.heads, *slow.idle):
        assert one.recv(65536).startswith(b"HTTP/1.1 200 ")
    for body in slow.bodies:
        assert body.recv(65536).endswith(b"\r\n\r\n%d" % (ROUNDS + 1))
    for whole in slow.whole:
        assert body_of(whole) == b"x" * (10 * MIB)
    for streamed in slow.streamed:
        assert body_of(streamed).count(b"x") == 10 * MIB
