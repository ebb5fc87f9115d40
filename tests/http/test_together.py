"""Responses of a quick app leave together: all of them, in order, and none is lost with another."""

import time
from collections.abc import Iterable, Iterator
from signal import SIGABRT

import pytest

from prefork_sd.hooks import Hooks
from prefork_sd.workers import together
from prefork_sd.workers.base import Worker
from tests.http.apps import MIB, TEXT, hello, hourglass
from tests.http.conftest import Serve
from tests.http.serving import Client, Environ, Gate, Served, StartResponse, Wire


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    data = environ["PATH_INFO"].encode()
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(data)))])
    return [data]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with something else makes no quick app a slow one."""
    monkeypatch.setattr(together, "QUICK", 60.0)


def prove(served: Served) -> Client:
    """A client whose requests have shown that the app is quick."""
    client = served.connect()
    for _ in range(3 * together.PROVEN):
        client.get("/quick")
    return client


def ask_at_once(served: Served, clients: list[Client], data: list[bytes]) -> None:
    """All that is asked has come before the worker looks."""
    with served.stopped():
        for client, piece in zip(clients, data, strict=True):
            client.send(piece)


def request(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def test_everybody_gets_their_own(serve_sync: Serve) -> None:
    served = serve_sync(echo)
    prove(served)
    clients = [served.connect() for _ in range(40)]
    for client in clients:
        client.get("/first")
    ask_at_once(served, clients, [request(f"/{number}") for number in range(40)])
    assert [client.reply().text for client in clients] == [f"/{number}" for number in range(40)]


def test_pipelined_requests_keep_their_order(serve_sync: Serve) -> None:
    served = serve_sync(echo)
    prove(served)
    clients = [served.connect() for _ in range(5)]
    paths = [f"/{number}" for number in range(600)]
    for client in clients:
        client.send(b"".join(map(request, paths)))
    for client in clients:
        assert [client.reply().text for _ in paths] == paths


def test_clients_that_close(serve_sync: Serve) -> None:
    served = serve_sync(echo)
    prove(served)
    with served.stopped():
        clients = [served.connect() for _ in range(40)]
        for number, client in enumerate(clients):
            client.send(request(f"/{number}", "Connection: close"))
    for number, client in enumerate(clients):
        assert client.reply().text == f"/{number}"
        assert client.rest() == b""
    served.stop()
    assert served.slot.counters[0] == 40 + 3 * together.PROVEN


def test_a_generator_waits_for_its_end_only_where_the_app_is_quick(
    serve_sync: Serve, gate: Gate
) -> None:
    """What it does after its last block is not what the client waits for."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "4")])
        yield b"body"
        if environ["PATH_INFO"] == "/slow":
            gate.wait()

    served = serve_sync(app)
    client = served.connect()
    client.send(request("/slow"))
    assert client.reply().text == "body"
    gate.open()
    for _ in range(3 * together.PROVEN):
        assert client.get("/quick").text == "body"


@pytest.mark.usefixtures("patient")
def test_what_was_answered_is_not_lost_with_a_call_that_hangs(
    serve_sync: Serve, gate: Gate, wire: Wire
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/hang":
            wire.say("hangs")
            gate.wait()
        return echo(environ, start_response)

    served = serve_sync(app)
    client = prove(served)
    good, bad = served.connect(), served.connect()
    for one in (good, bad, client):  # the last one is first in the order that epoll keeps
        one.get("/first")
    ask_at_once(served, [good, bad], [request("/good"), request("/hang")])
    assert wire.hear() == "hangs"
    served.signal(SIGABRT)
    assert good.reply().text == "/good"
    assert bad.rest() == b""


@pytest.mark.usefixtures("patient")
def test_what_was_answered_is_not_lost_with_a_hook_that_hangs(
    serve_sync: Serve, gate: Gate, wire: Wire
) -> None:
    def post_request(worker: object, req: object, environ: Environ, resp: object) -> None:
        if environ["PATH_INFO"] == "/hang":
            wire.say("hangs")
            gate.wait()

    served = serve_sync(echo, hooks=Hooks(post_request=post_request))
    client = prove(served)
    good, bad = served.connect(), served.connect()
    for one in (good, bad, client):
        one.get("/first")
    ask_at_once(served, [bad, good], [request("/hang"), request("/good")])
    assert wire.hear() == "hangs"
    served.signal(SIGABRT)
    for one, path in ((good, "/good"), (bad, "/hang")):
        assert one.reply().text == path
        assert one.rest() == b""


@pytest.mark.usefixtures("patient")
def test_what_was_answered_is_not_lost_with_a_worker_that_fails(serve_sync: Serve) -> None:
    def post_request(worker: object, req: object, environ: Environ, resp: object) -> None:
        if environ["PATH_INFO"] == "/bad":
            raise KeyboardInterrupt

    served = serve_sync(echo, hooks=Hooks(post_request=post_request))
    client = prove(served)
    good, bad = served.connect(), served.connect()
    for one in (good, bad, client):
        one.get("/first")
    ask_at_once(served, [bad, good], [request("/bad"), request("/good")])
    assert good.reply().text == "/good"
    assert served.exit().status != 0


def test_each_hook_has_its_time(serve_sync: Serve, gate: Gate, wire: Wire) -> None:
    """A worker whose hooks are slow is not taken for one that hangs."""

    def post_request(worker: Worker, req: object, environ: Environ, resp: object) -> None:
        if environ["PATH_INFO"] == "/slow":
            wire.say("slow")
            gate.wait()
            wire.say(f"{worker.tmp.deadline - time.monotonic()}")

    served = serve_sync(echo, timeout=4, hooks=Hooks(post_request=post_request))
    client = prove(served)
    clients = [served.connect(), served.connect()]
    for one in (*clients, client):
        one.get("/first")
    ask_at_once(served, clients, [request("/slow")] * 2)
    left = []
    for _ in clients:
        assert wire.hear() == "slow"
        hourglass(serve_sync, 1)
        gate.open()
        left.append(float(wire.hear()))
    assert abs(left[0] - left[1]) < 1


def test_a_response_that_waited_does_not_cost_its_client_the_connection(
    serve_sync: Serve, gate: Gate, wire: Wire
) -> None:
    """How long it is kept is reckoned from when its response has left."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            wire.say("waits")
            gate.wait()
            start_response("200 OK", TEXT)
            return [bytes(16 * MIB)]  # nobody reads it
        return echo(environ, start_response)

    served = serve_sync(app, keepalive=1)
    client = prove(served)
    good, slow = served.connect(), served.connect(buffer=4096)
    for one in (good, slow, client):
        one.get("/first")
    ask_at_once(served, [good, slow], [request("/good"), request("/slow")])
    assert wire.hear() == "waits"
    hourglass(serve_sync, 3)
    gate.open()
    assert good.reply().text == "/good"
    assert served.get("/other").text == "/other"  # the worker has been through a turn
    assert good.get("/again").text == "/again"


def test_a_slow_call_ends_it(serve_sync: Serve, gate: Gate) -> None:
    """Until the app has proven quick again, nobody waits for anybody."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            until = time.monotonic() + 4 * together.QUICK
            while time.monotonic() < until:
                pass
        if environ["PATH_INFO"] == "/wait":
            gate.wait()
        return hello(environ, start_response)

    served = serve_sync(app)
    client = prove(served)
    assert client.get("/slow").status == 200
    one, other = served.connect(), served.connect()
    for each in (one, other, client):
        each.get("/first")
    ask_at_once(served, [one, other], [request("/one"), request("/wait")])
    assert one.reply().status == 200
    gate.open()
    assert other.reply().status == 200
