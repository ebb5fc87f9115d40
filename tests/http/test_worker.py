"""A worker and its clients: rude ones, slow ones, many of them; limits and records."""

import errno
import gc
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import ClassVar

import pytest

from prefork_sd.hooks import Hooks
from prefork_sd.workers import calls
from prefork_sd.workers.connection import Connection
from prefork_sd.workers.sync import SyncWorker
from tests.http.apps import MIB, TEXT, at, big, hello, hourglass
from tests.http.conftest import Serve
from tests.http.serving import Environ, Gate, Served, StartResponse, Wire

# ---- limits


START = b"GET / HTTP/1.1\r\nHost: a\r\n"
FIELD = START + b"X: %b\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: a\r\n"
CHUNKS = PUT + b"Transfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n6\r\n"
LIMITS: dict[str, tuple[int, dict[str, object], bytes]] = {
    "line": (414, {"limit_request_line": 100}, b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 100)),
    "field": (431, {"limit_request_field_size": 100}, FIELD % (b"x" * 98)),
    "fields": (431, {"limit_request_fields": 2}, START + b"B: b\r\nC: c\r\n\r\n"),
    "head": (431, {}, START + b"X: %b\r\n" % (b"x" * 8000) * 9),
    "length": (413, {"limit_request_body": 9}, PUT + b"Content-Length: 10\r\n\r\n"),
    "chunks": (413, {"limit_request_body": 9}, CHUNKS),
    "version": (505, {}, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "coding": (501, {}, PUT + b"Transfer-Encoding: gzip\r\n\r\n"),
    "grammar": (400, {}, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_what_goes_beyond_a_limit_is_refused_and_closed(serve_sync: Serve, name: str) -> None:
    status, settings, request = LIMITS[name]
    served = serve_sync(hello, **settings)
    client = served.connect()
    client.send(request)
    reply = client.reply()
    assert (reply.status, reply["Connection"]) == (status, "close")
    assert client.rest() == b""
    assert served.slot.counters[0] == 0
    assert served.get().status == 200


def test_a_body_of_exactly_the_limit_is_fine(serve_sync: Serve) -> None:
    client = serve_sync(hello, limit_request_body=10).connect()
    client.request("PUT", body=b"0123456789")
    assert client.reply().status == 200


def test_a_refusal_reaches_a_client_that_still_sends(serve: Serve) -> None:
    client = serve(hello, limit_request_body=1000).connect()
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (8 * MIB)
    sender = client.send_aside(head + bytes(8 * MIB))
    assert client.reply().status == 413
    sender.join()
    client.end()
    assert client.rest() == b""


def test_a_last_response_reaches_a_client_that_has_sent_more(serve: Serve, gate: Gate) -> None:
    wire = Wire()
    client = serve(at(gate, wire), keepalive=0).connect()
    client.request("GET", "/1")
    assert wire.hear() == "/1"
    client.request("GET", "/2")  # is on its way when the server decides to close
    gate.open()
    assert client.reply().text == "/1"
    assert client.rest() == b""
    wire.close()


# ---- slow clients and many clients


def test_a_fast_client_does_not_notice_slow_ones(serve: Serve) -> None:
    served = serve(big)
    readers = [served.connect(buffer=4096) for _ in range(20)]
    for client in readers:
        client.request("GET", "/big")
    heads = [served.connect() for _ in range(50)]
    bodies = [served.connect() for _ in range(50)]
    for client in heads:
        client.send(b"GET / HT")
    for client in bodies:
        client.request("PUT", "/", "Content-Length: 10")
        client.send(b"x")
    idle = [served.connect() for _ in range(200)]
    for client in idle:
        client.get("/idle")

    fast = served.connect()
    begun = time.monotonic()
    for _ in range(100):
        assert fast.get("/fast").text == "/fast"
    assert time.monotonic() - begun < 5  # 50 ms each
    for client in (*heads, *bodies, *readers[1:]):
        client.close()
    assert len(readers[0].reply().body) == 10 * MIB  # nothing was lost
    assert idle[-1].get("/idle").text == "/idle"


def test_a_stream_without_an_end_leaves_a_turn_to_others(
    serve_sync: Serve, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "ROUND", 0.05)

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        try:
            while environ["PATH_INFO"] == "/endless":
                yield b"x"
            yield b"end"
        finally:
            wire.say(environ["PATH_INFO"])

    served = serve_sync(app)
    endless = served.connect()
    endless.request("GET", "/endless")
    endless.head()
    with served.reading(endless):
        for _ in range(3):
            assert served.get("/other").text == "end"
            assert wire.hear() == "/other"
    endless.close()
    assert wire.hear() == "/endless"


class Counting(SyncWorker):
    """Counts its turns where the test can see them."""

    turns = 0

    def turn(self) -> bool:
        self.turns += 1
        self.tmp.introduce(self.pid, self.turns)  # the generation is of no use here
        return super().turn()


def test_hundreds_of_idle_clients_cost_no_turn(serve_sync: Serve) -> None:
    served = serve_sync(hello, worker=Counting)
    clients = [served.connect() for _ in range(500)]
    for client in clients[::2]:
        client.get()
    before = served.slot.generation
    hourglass(serve_sync, 1)
    assert served.slot.generation - before <= 2
    for client in clients:
        assert client.get().status == 200


def test_an_app_that_forks_does_not_make_the_loop_spin(serve_sync: Serve, gate: Gate) -> None:
    """Its child keeps the sockets open: the kernel would go on to report what happens there."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fork" and os.fork() == 0:
            try:
                gate.wait()
            finally:
                os._exit(0)
        return hello(environ, start_response)

    served = serve_sync(app, worker=Counting)
    client = served.connect()
    client.get("/fork")
    client.close()
    assert served.get().status == 200
    before = served.slot.generation
    hourglass(serve_sync, 1)
    assert served.slot.generation - before <= 4
    gate.open()


def test_no_more_connections_than_allowed_are_held(serve: Serve) -> None:
    served = serve(hello, worker_connections=2)
    first, second, third = (served.connect() for _ in range(3))
    first.get()
    second.get()
    third.request("GET", "/third")
    first.close()
    assert third.reply().text == "/third"


def test_a_connection_that_is_broken_makes_room(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        return [b"short"]

    served = serve(app, worker_connections=1)
    for _ in range(3):
        client = served.connect()
        client.request("GET", "/")
        assert client.head().status == 200
        with pytest.raises(ConnectionResetError):
            client.rest()


def resident(served: Served) -> int:
    """The most memory it ever had, in bytes: proc_pid_status(5)."""
    lines = Path(f"/proc/{served.pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return int(found["VmHWM"].split()[0]) * 1024


def test_large_bodies_and_responses_do_not_grow_the_worker(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        size = 0
        while data := environ["wsgi.input"].read(65536):
            size += len(data)
        start_response("200 OK", [*TEXT, ("X-Size", str(size))])
        return (bytes(65536) for _ in range(1 if environ["PATH_INFO"] == "/warm" else 4096))

    served = serve(app)
    served.connect().get("/warm")
    before = resident(served)
    client = served.connect()
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB)
    sender = client.send_aside(head + bytes(64 * MIB))
    reply = client.head()
    sender.join()
    assert reply["X-Size"] == str(64 * MIB)
    received = 0
    while piece := client.chunk():
        received += len(piece)
    assert received == 256 * MIB
    assert resident(served) - before < 40 * MIB


# ---- counting and records


def test_a_worker_that_has_served_its_share_asks_for_a_successor_and_serves_on(
    serve: Serve,
) -> None:
    served = serve(hello, max_requests=3)
    client = served.connect()
    for _ in range(2):
        client.get()
    assert not served.slot.tired
    client.get()
    served.wait_for(lambda: served.slot.tired)
    assert client.get().status == 200
    assert not served.slot.draining


def test_counters(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("500 Oops" if environ["PATH_INFO"] == "/oops" else "200 OK", TEXT)
        return [b"12345"]

    served = serve(app, access_log="off")
    client = served.connect()
    for path in ("/", "/oops", "/"):
        client.get(path)
    client.close()
    served.stop()
    assert served.slot.counters == (3, 1, 15)


@pytest.mark.parametrize(
    ("settings", "records"),
    [
        ({"access_log": "off"}, []),
        ({"access_log": "errors"}, ["WARNING GET /oops 500"]),
        (
            {"access_log": "all"},
            ["INFO GET / 200", "WARNING GET /oops 500", "INFO GET /nope 404"],
        ),
        (
            {"access_log": "errors", "slow_request": 1e-9},
            ["WARNING GET / 200", "WARNING GET /oops 500", "WARNING GET /nope 404"],
        ),
    ],
)
def test_which_requests_are_recorded(
    serve_sync: Serve, settings: dict[str, object], records: list[str]
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        status = {"/oops": "500 Oops", "/nope": "404 Nope"}.get(environ["PATH_INFO"], "200 OK")
        start_response(status, TEXT)
        return [b"x"]

    served = serve_sync(app, **settings)
    client = served.connect()
    for path in ("/?secret", "/oops", "/nope"):
        client.get(path)
    client.close()
    served.stop()
    found = [line for line in served.log.rest() if not line.startswith("DEBUG")]
    assert [line.partition(" in ")[0] for line in found] == records


def test_the_hooks_of_a_request(serve: Serve, wire: Wire) -> None:
    hooks = Hooks(
        pre_request=lambda worker, req: wire.say(f"pre {req.head.method}"),
        post_request=lambda worker, req, environ, resp: wire.say(
            f"post {environ['PATH_INFO']} {resp.status}"
        ),
    )
    client = serve(hello, hooks=hooks).connect()
    for _ in range(2):
        client.get("/x")
        assert [wire.hear(), wire.hear()] == ["pre GET", "post /x 200"]


def test_a_reset_at_any_moment_costs_nobody(serve: Serve, gate: Gate, wire: Wire) -> None:
    served = serve(at(gate, wire))
    for path in ("/1", "/2"):
        client = served.connect()
        client.request("GET", path)
        assert wire.hear() == path
        client.sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        gate.open()
    assert served.get("/free").status == 200
    assert served.stop().status == 0
    assert not [line for line in served.log.rest() if line.startswith("ERROR")]


def test_an_app_may_hold_on_to_the_memory_of_a_body(serve: Serve) -> None:
    """BytesIO refuses to be closed while there is a view of it."""
    views: list[memoryview] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        views.append(environ["wsgi.input"].getbuffer())
        start_response("200 OK", TEXT)
        return [bytes(views[0])]

    client = serve(app).connect()
    for text in ("one", "two"):
        client.request("POST", "/", body=text.encode())
        assert client.reply().text == "one"


def test_what_is_over_is_freed_at_once(serve: Serve, wire: Wire) -> None:
    """Nothing waits for the collector: not a connection that broke, not what a failed call held."""

    class Held:
        pass

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        gc.disable()
        held = Held()
        if environ["PATH_INFO"] == "/fail":
            raise ValueError(held)
        if environ["PATH_INFO"] == "/big":
            return big(environ, start_response)
        kinds = [type(one) for one in gc.get_objects()]
        start_response("200 OK", TEXT)
        return [f"{kinds.count(Held)} {kinds.count(Connection)}".encode()]

    over = Hooks(post_request=lambda worker, req, environ, resp: wire.say(environ["PATH_INFO"]))
    served = serve(app, threads=1, hooks=over)
    for _ in range(3):
        assert served.get("/fail").status == 500
        assert wire.hear() == "/fail"
        client = served.connect(buffer=4096)
        client.request("GET", "/big")
        assert client.head().status == 200
        client.sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert wire.hear() == "/big"
    assert served.get("/count").text == "1 1"


def test_a_large_file_leaves_a_turn_to_others(serve_sync: Serve, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 30)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/large":
            start_response("200 OK", TEXT)
            body: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
            return body
        return hello(environ, start_response)

    served = serve_sync(app)
    large = served.connect()
    large.request("GET", "/large")
    assert large.head()["Content-Length"] == str(64 << 30)
    with served.reading(large):
        for _ in range(3):
            assert served.get("/other").text == "/other"


class FlakySocket:
    """A listener of which two accepts fail, as accept(2) says they may."""

    errors: ClassVar = [errno.EPROTO, errno.EMFILE]

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.family = sock.family

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def _accept(self) -> object:
        if self.errors:
            raise OSError(self.errors.pop(), "on purpose")
        return self.sock._accept()  # type: ignore[attr-defined]


class Flaky(SyncWorker):
    def prepare(self) -> None:
        for listener in self.sockets:
            listener.sock = FlakySocket(listener.sock)  # type: ignore[assignment]
        super().prepare()


def test_an_accept_that_fails_costs_a_moment_and_no_client(serve_sync: Serve) -> None:
    served = serve_sync(hello, worker=Flaky)
    for _ in range(3):
        assert served.get().status == 200
    assert served.log.hear().startswith("ERROR cannot accept a connection")


class FullPoll:
    """An epoll instance whose user may watch no more descriptors, for a while: epoll_ctl(2)."""

    def __init__(self, real: select.epoll) -> None:
        self.real = real
        self.refusals = 1

    def register(self, fd: int, events: int) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, "on purpose")
        self.real.register(fd, events)

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


class Crowded(SyncWorker):
    def prepare(self) -> None:
        super().prepare()
        self.poll = FullPoll(self.poll)  # type: ignore[assignment]


def test_a_client_that_cannot_be_watched_is_closed_and_said(serve_sync: Serve) -> None:
    served = serve_sync(hello, worker=Crowded)
    unlucky = served.connect()
    unlucky.get()
    assert unlucky.rest() == b""
    assert served.log.hear().startswith("ERROR cannot watch a connection")
    client = served.connect()
    for _ in range(2):
        assert client.get().status == 200
