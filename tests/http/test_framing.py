"""Where a response ends (RFC 9112, 6), and that its iterable is closed in any case."""

from collections.abc import Iterable

import pytest

from tests.http.apps import TEXT, Closing, says
from tests.http.conftest import Serve
from tests.http.serving import Environ, Gate, StartResponse, Wire

# ---- bodies


@pytest.mark.parametrize(
    ("body", "framing"),
    [
        ([b"a"], "1"),
        ((b"a", b"b"), "2"),
        ([], "0"),
        ([b""], "0"),
    ],
)
def test_a_body_that_is_all_there_has_a_length(
    serve_sync: Serve, body: Iterable[bytes], framing: str
) -> None:
    reply = serve_sync(says(body)).get()
    assert reply["Content-Length"] == framing
    assert reply.body == b"".join(body)


def test_write_comes_before_what_is_returned(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", TEXT)
        write(b"a")
        write(b"")
        write(b"b")
        return [b"c", b"d"]

    client = serve(app).connect()
    client.request("GET", "/")
    assert client.head()["Transfer-Encoding"] == "chunked"
    assert [client.chunk() for _ in range(4)] == [b"a", b"b", b"cd", b""]
    assert client.get().text == "abcd"


def test_a_block_is_sent_before_the_next_one_is_made(serve: Serve, gate: Gate) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        yield b"first"
        gate.wait()
        yield b""
        yield b"second"
        gate.wait()

    client = serve(app).connect()
    client.request("GET", "/")
    client.head()
    assert client.chunk() == b"first"
    gate.open()
    assert client.chunk() == b"second"
    gate.open()
    assert client.chunk() == b""


def test_what_was_written_is_sent_before_the_app_goes_on(serve: Serve, gate: Gate) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "2")])(b"a")
        gate.wait()
        return [b"b"]

    client = serve(app).connect()
    client.request("GET", "/")
    client.head()
    assert client.take(1) == b"a"
    gate.open()
    assert client.take(1) == b"b"


def test_an_app_that_sends_too_much_is_cut_at_its_length(serve: Serve) -> None:
    served = serve(says([b"abc", b"def"], "200 OK", ("Content-Length", "4")))
    client = served.connect()
    for _ in range(2):
        assert client.get().text == "abcd"
        assert "more bytes than its Content-Length says" in served.log.hear()


@pytest.mark.parametrize("body", [[b"abc"], (b"a", b"bc"), iter([b"abc"])])
def test_an_app_that_sends_too_little_cannot_be_taken_for_whole(
    serve_sync: Serve, body: Iterable[bytes]
) -> None:
    served = serve_sync(says(body, "200 OK", ("Content-Length", "4")))
    client = served.connect()
    client.request("GET", "/")
    assert client.head()["Content-Length"] == "4"
    with pytest.raises(ConnectionResetError):
        client.rest()
    assert "1 bytes fewer than its Content-Length says" in served.log.hear()
    client = served.connect()  # and the worker lives on
    client.request("GET", "/")
    assert client.head().status == 200


def test_an_app_that_fails_midway_cannot_be_taken_for_whole(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        yield b"begun"
        raise ValueError("on purpose")

    served = serve(app)
    client = served.connect()
    client.request("GET", "/")
    client.head()
    assert client.chunk() == b"begun"
    with pytest.raises(ConnectionResetError):
        client.rest()
    assert "ValueError: on purpose" in served.log.hear()


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_status_without_a_body_has_none(serve: Serve, status: str) -> None:
    for body in ([b"not to be sent"], iter([b"not", b"to be sent"]), []):
        client = serve(says(body, status)).connect()
        client.request("GET", "/")
        reply = client.reply()
        assert reply.status == int(status[:3])
        assert reply["Transfer-Encoding"] is None
        assert reply["Content-Length"] is None
        client.request("GET", "/")
        assert client.reply().status == reply.status


def test_a_204_never_says_a_length(serve_sync: Serve) -> None:
    served = serve_sync(says([], "204 No Content", ("Content-Length", "0")))
    assert served.get()["Content-Length"] is None  # RFC 9110, 8.6


def test_a_304_may_say_the_length_of_what_it_does_not_send(serve_sync: Serve) -> None:
    served = serve_sync(says([], "304 Not Modified", ("Content-Length", "1234")))
    client = served.connect()
    for _ in range(2):
        reply = client.get()
        assert (reply["Content-Length"], reply.body) == ("1234", b"")
    client.close()
    served.stop()
    assert not [line for line in served.log.rest() if "ERROR" in line]


@pytest.mark.parametrize(
    ("body", "headers", "length", "coding"),
    [
        ([b"abc"], [], "3", None),
        (iter([b"a", b"bc"]), [], None, "chunked"),
        ([], [("Content-Length", "1234")], "1234", None),
        ([b"abc"], [("Content-Length", "3")], "3", None),
        ([], [], None, "chunked"),  # not "0": a GET might have had a body
    ],
)
def test_head_is_answered_like_get_but_without_a_body(
    serve_sync: Serve,
    body: Iterable[bytes],
    headers: list[tuple[str, str]],
    length: str | None,
    coding: str | None,
) -> None:
    served = serve_sync(says(body, "200 OK", *headers))
    client = served.connect()
    for _ in range(2):
        client.request("HEAD", "/")
        reply = client.reply("HEAD")
        assert (reply["Content-Length"], reply["Transfer-Encoding"]) == (length, coding)
        assert reply.keeps_alive
    client.close()
    served.stop()
    assert not [line for line in served.log.rest() if "ERROR" in line]


# ---- closing


@pytest.mark.parametrize(
    ("method", "blocks"),
    [
        ("GET", [b"a", b"b"]),
        ("HEAD", [b"a"]),
        ("GET", []),
        ("GET", [ValueError("on purpose")]),
        ("GET", [b"a", ValueError("on purpose")]),
        ("GET", [b"a", b"more than its length says"]),
    ],
)
def test_an_iterable_is_closed_exactly_once(
    serve: Serve, wire: Wire, method: str, blocks: list[bytes | BaseException]
) -> None:
    served = serve(says(Closing(wire, *blocks), "200 OK", ("Content-Length", "1")))
    client = served.connect()
    client.request(method, "/", "Connection: close")
    assert wire.hear() == "closed"
    served.stop()
    assert wire.rest() == []


def test_a_list_with_a_close_is_closed(serve: Serve, wire: Wire) -> None:
    class Pages(list[bytes]):
        def close(self) -> None:
            wire.say("closed")

    assert serve(says(Pages([b"a"]))).get().text == "a"
    assert wire.hear() == "closed"


def test_an_iterable_is_closed_when_the_client_has_left(serve: Serve, wire: Wire) -> None:
    big = [bytes(1 << 20)] * 64
    served = serve(says(Closing(wire, *big)), response_buffer=65536)
    client = served.connect(buffer=4096)
    client.request("GET", "/")
    client.head()
    client.close()
    assert wire.hear() == "closed"
    served.stop()
    assert wire.rest() == []
    assert not [line for line in served.log.rest() if "ERROR" in line]  # that is no error


def test_an_app_that_writes_hears_that_the_client_has_left(serve: Serve, wire: Wire) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", TEXT)
        try:
            while True:
                write(bytes(1 << 20))
        except OSError as error:
            wire.say(type(error).__name__)
            raise

    served = serve(app)
    client = served.connect(buffer=4096)
    client.request("GET", "/")
    client.head()
    client.close()
    assert wire.hear() == "ClientLeftError"
    assert served.stop().status == 0
    assert not [line for line in served.log.rest() if "ERROR" in line]


def test_a_close_that_fails_is_one_record_and_costs_nobody_else(serve: Serve, wire: Wire) -> None:
    class Bad(Closing):
        def close(self) -> None:
            raise ValueError("on purpose")

    served = serve(says(Bad(wire, b"a")))
    client = served.connect()
    for _ in range(2):
        assert client.get().text == "a"
        assert "ValueError: on purpose" in served.log.hear()
