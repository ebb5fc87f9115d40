"""Requests in hand: as many as there are threads, on the scoreboard, and hung ones."""

import time
from collections.abc import Iterable, Iterator

from tests.http.apps import TEXT, at, hello, hourglass
from tests.http.conftest import Serve
from tests.http.serving import Environ, Gate, StartResponse, Wire


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
