"""No client can keep a worker to itself, however little it costs it to ask for a lot."""

import select
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import pytest

from prefork_sd.workers import calls
from tests.http.apps import TEXT, Closing, at, hello
from tests.http.conftest import Serve
from tests.http.serving import PATIENCE, App, Environ, Gate, StartResponse, Wire

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


def endless(wire: Wire, status: str = "200 OK") -> App:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/other":
            return hello(environ, start_response)
        start_response(status, TEXT)
        return Endless(wire)

    return app


class Endless(Closing):
    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"x"


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
def test_a_response_without_a_body_is_over_after_its_head(
    serve: Serve, wire: Wire, method: str, status: str
) -> None:
    """However much the app has for it: nobody would ever read it."""
    served = serve(endless(wire, status))
    client = served.connect()
    for _ in range(2):
        client.request(method, "/endless")
        assert client.reply(method).status == int(status[:3])
        assert wire.hear() == "closed"
    assert client.get("/other").text == "/other"


def test_a_client_that_sends_many_requests_at_once_leaves_a_turn_to_others(
    serve: Serve, wire: Wire
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/other":
            if environ["PATH_INFO"] == "/0":
                wire.say("begun")
            end = time.thread_time() + 0.005
            while time.thread_time() < end:
                pass
        return hello(environ, start_response)

    served = serve(app)
    greedy, other = served.connect(), served.connect()
    other.get("/other")
    count = 300
    greedy.send(b"".join(GET % b"%d" % number for number in range(count)))
    assert wire.hear() == "begun"
    begun = time.monotonic()
    assert other.get("/other").text == "/other"
    assert time.monotonic() - begun < 0.5  # of 1.5 seconds
    assert [greedy.reply().text for _ in range(count)] == [f"/{number}" for number in range(count)]


def test_a_worker_that_is_always_full_takes_new_clients_all_the_same(
    serve_threads: Serve, gate: Gate, wire: Wire
) -> None:
    """It would leave them to the others, but these may be as full as it is."""
    served = serve_threads(at(gate, wire), workers=2, threads=2)
    old = [served.connect() for _ in range(8)]
    for client in old:
        client.get("/free")
    for client in old:
        client.request("GET", "/old")
    assert [wire.hear(), wire.hear()] == ["/old", "/old"]
    new = served.connect()
    new.request("GET", "/new")
    for _ in range(20_000):
        gate.open()
        [answered, *_] = select.select([one.sock for one in old], [], [], PATIENCE)[0]
        [client] = [one for one in old if one.sock is answered]
        client.reply()
        client.request("GET", "/old")
        if wire.hear() == "/new":
            break
    else:
        raise AssertionError("the new client had to wait until the others were done")
    gate.open(9)
    assert new.reply().text == "/new"


def test_streams_without_an_end_leave_a_turn_to_new_clients(
    serve_threads: Serve, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread goes on with what it has begun, but not only with that."""
    monkeypatch.setattr(calls, "ROUND", 0.05)
    served = serve_threads(endless(wire), threads=2)
    streams = [served.connect() for _ in range(5)]
    with ExitStack() as reading:
        for stream in streams:
            stream.request("GET", "/endless")
            stream.head()
            reading.enter_context(served.reading(stream))
        for _ in range(3):
            assert served.get("/other").text == "/other"
    for stream in streams:
        stream.close()
    assert {wire.hear() for _ in streams} == {"closed"}
