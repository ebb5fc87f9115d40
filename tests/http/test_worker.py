"""A worker and its clients: slow ones, rude ones, many of them; limits, deadlines and the end."""

import os
import select
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from signal import SIGABRT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1
from socket import SO_LINGER, SOL_SOCKET

import pytest

from prefork_sd.hooks import Hooks
from prefork_sd.workers.sync import SyncWorker
from tests.http.conftest import Serve
from tests.http.serving import App, Client, Environ, Gate, Served, StartResponse, Wire

TEXT = [("Content-Type", "text/plain")]
MIB = 1 << 20


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [environ["PATH_INFO"].encode()]


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


# ---- deadlines


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


# ---- slow clients and many clients


def big(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/big":
        start_response("200 OK", TEXT)
        return [b"x" * (10 * MIB)]
    return hello(environ, start_response)


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


def test_a_stream_without_an_end_leaves_a_turn_to_others(serve_sync: Serve, wire: Wire) -> None:
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
        self.tmp.count(self.turns, 0, 0)
        return super().turn()

    def complete(self, connection: object) -> None:
        super().complete(connection)  # type: ignore[arg-type]
        self.tmp.count(self.turns, 0, 0)


def test_hundreds_of_idle_clients_cost_no_turn(serve_sync: Serve) -> None:
    served = serve_sync(hello, worker=Counting)
    clients = [served.connect() for _ in range(500)]
    for client in clients[::2]:
        client.get()
    before = served.slot.counters[0]
    hourglass(serve_sync, 1)
    assert served.slot.counters[0] - before <= 2
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
    before = served.slot.counters[0]
    hourglass(serve_sync, 1)
    assert served.slot.counters[0] - before <= 4
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


# ---- threads


def test_as_many_requests_run_as_there_are_threads(
    serve_threads: Serve, gate: Gate, wire: Wire
) -> None:
    served = serve_threads(at(gate, wire), threads=4)
    clients = [served.connect() for _ in range(6)]
    for number, client in enumerate(clients):
        client.request("GET", f"/{number}")
    running = {wire.hear() for _ in range(4)}
    assert len(running) == 4
    assert {f"/{one.path.strip('/')}" for one in served.slot.in_hand()} == running
    gate.open(2)
    running |= {wire.hear() for _ in range(2)}
    assert len(running) == 6
    gate.open(4)
    assert [client.reply().text for client in clients] == [f"/{number}" for number in range(6)]


def test_a_request_in_hand_is_on_the_scoreboard(serve: Serve, gate: Gate, wire: Wire) -> None:
    served = serve(at(gate, wire), timeout=60)
    client = served.connect()
    begun = time.monotonic()
    client.request("GET", "/report?secret")
    wire.hear()
    [request] = served.slot.in_hand()
    assert (request.method, request.path) == ("GET", "/report")
    assert begun <= request.since <= time.monotonic()
    assert served.slot.deadline < time.monotonic() + 120
    gate.open()
    client.reply()
    assert served.slot.in_hand() == []


def test_one_hung_request_does_not_take_its_siblings(
    serve_threads: Serve, gate: Gate, wire: Wire
) -> None:
    released = Gate()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        wire.say(environ["PATH_INFO"])
        (gate if environ["PATH_INFO"] == "/hangs" else released).wait()
        return hello(environ, start_response)

    served = serve_threads(app, threads=2, timeout=1)
    hung, sibling = served.connect(), served.connect()
    hung.request("GET", "/hangs")
    assert wire.hear() == "/hangs"
    hourglass(serve_threads, 0.3)
    sibling.request("GET", "/sibling")
    assert wire.hear() == "/sibling"
    served.wait_for(lambda: served.slot.hung)
    served.wait_for(lambda: served.slot.draining)
    assert "serving.py" in served.words.read()
    assert "/hangs" in [request.path for request in served.slot.in_hand()]
    released.open()
    assert sibling.reply().text == "/sibling"
    gate.open()
    assert hung.reply().text == "/hangs"  # late, but it came
    assert served.exit().status == 0
    released.close()


def test_a_long_stream_is_not_a_hung_request(serve: Serve, gate: Gate, wire: Wire) -> None:
    """Each block comes well within the timeout, all of them do not."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        for _ in range(4):
            gate.wait()
            yield b"x"

    served = serve(app, timeout=2)
    client = served.connect()
    client.request("GET", "/")
    for number in range(4):
        hourglass(serve, 0.5)
        gate.open()
        if number == 0:
            client.head()
        assert client.chunk() == b"x"
    assert client.chunk() == b""
    assert not served.slot.hung


# ---- the end


def nobody_took(client: Client, served: Served) -> bool:
    """Whether the connection still waits at the listener: for another worker."""
    sock, address = served.listener.sock.accept()
    sock.close()
    return bool(address == client.sock.getsockname())


def test_term_finishes_what_is_in_hand_and_accepts_nothing(
    serve: Serve, gate: Gate, wire: Wire
) -> None:
    served = serve(at(gate, wire))
    busy, idle, silent = served.connect(), served.connect(), served.connect()
    idle.get("/free")
    busy.request("GET", "/busy")
    assert wire.hear() == "/busy"
    served.signal(SIGTERM)
    served.wait_for(lambda: served.slot.draining or served.kind.inline)
    late = served.connect()
    late.request("GET", "/late")
    gate.open()
    assert busy.reply().text == "/busy"
    for client in (busy, idle, silent):
        assert client.rest() == b""
    assert served.exit().status == 0
    assert nobody_took(late, served)


def test_an_idle_client_that_still_sends_is_answered_during_a_drain(serve: Serve) -> None:
    served = serve(hello)
    client = served.connect()
    client.get()
    served.signal(SIGTERM)
    served.wait_for(lambda: served.slot.draining)
    assert client.get("/still")["Connection"] == "close"
    assert client.rest() == b""
    client.close()
    assert served.exit().status == 0


def test_a_body_that_is_under_way_is_waited_for_during_a_drain(serve: Serve) -> None:
    served = serve(hello)
    client = served.connect()
    client.request("PUT", "/upload", "Expect: 100-continue", "Content-Length: 2")
    assert client.reply().status == 100
    served.signal(SIGTERM)
    served.wait_for(lambda: served.slot.draining)
    client.send(b"ab")
    assert client.reply().text == "/upload"
    assert client.rest() == b""
    client.close()
    assert served.exit().status == 0


def test_a_slow_reader_gets_everything_during_a_drain(serve: Serve) -> None:
    served = serve(big)
    client = served.connect(buffer=4096)
    client.request("GET", "/big")
    client.head()
    served.signal(SIGTERM)
    served.wait_for(lambda: served.slot.draining)
    assert len(client.take(10 * MIB)) == 10 * MIB
    assert client.rest() == b""
    assert served.exit().status == 0


def test_term_twice_is_term_once(serve: Serve, gate: Gate, wire: Wire) -> None:
    served = serve(at(gate, wire))
    client = served.connect()
    client.request("GET", "/busy")
    wire.hear()
    served.signal(SIGTERM)
    served.signal(SIGTERM)
    gate.open()
    assert client.reply().text == "/busy"
    client.close()
    assert served.exit().status == 0


@pytest.mark.parametrize("signum", [SIGINT, SIGQUIT])
def test_quit_leaves_at_once(serve: Serve, gate: Gate, wire: Wire, signum: int) -> None:
    hooks = Hooks(
        worker_int=lambda worker: wire.say("int"),
        worker_exit=lambda server, worker: wire.say("exit"),
    )
    served = serve(at(gate, wire), hooks=hooks)
    client = served.connect()
    client.request("GET", "/busy")
    wire.hear()
    assert served.stop(signum).status == 0
    assert wire.rest() == ["int", "exit"]
    assert client.rest() == b""


def test_quit_leaves_even_if_a_hook_fails(serve_sync: Serve) -> None:
    hooks = Hooks(worker_int=lambda worker: sys.exit(5), worker_exit=lambda server, worker: 1 / 0)
    assert serve_sync(hello, hooks=hooks).stop(SIGQUIT).status == 0


def test_abort_leaves_its_stacks_behind(serve: Serve, gate: Gate, wire: Wire) -> None:
    hooks = Hooks(worker_abort=lambda worker: wire.say("abort"))
    served = serve(at(gate, wire), hooks=hooks)
    served.connect().request("GET", "/busy")
    assert wire.hear() == "/busy"
    assert served.stop(SIGABRT).status == 128 + SIGABRT
    assert wire.rest() == ["abort"]
    words = served.words.read()
    assert "Fatal Python error: Aborted" in words
    assert " in app\n" in words


@pytest.mark.parametrize("signum", [SIGHUP, SIGUSR1])
def test_signals_for_the_arbiter_do_nothing_to_a_worker(serve_sync: Serve, signum: int) -> None:
    served = serve_sync(hello)
    served.signal(signum)
    assert served.get().status == 200


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
