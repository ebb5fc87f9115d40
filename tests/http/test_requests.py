"""Requests with bodies, one after another on a connection, and how connections end."""

import gc
import io
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from signal import SIGTERM

from tests.http.apps import TEXT, echo, says
from tests.http.conftest import Serve
from tests.http.serving import Environ, Gate, StartResponse

# ---- requests with bodies


def test_bodies_come_whole_and_in_order(serve: Serve) -> None:
    client = serve(echo).connect()
    for body in (b"x", bytes(range(256)) * 10, b"\r\n\r\n"):
        client.request("POST", "/", body=body)
        assert client.reply().body == body


def test_a_large_body_is_spooled_to_a_file(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        on_disk = not isinstance(body, io.BytesIO)
        start_response("200 OK", [*TEXT, ("X-On-Disk", str(on_disk))])
        return [body.readline(), body.read(3), body.read()[-4:]]

    client = serve(app, body_buffer=65536).connect()
    for size, on_disk in ((65536, "False"), (65537, "True"), (5 << 20, "True")):
        body = b"line\nabc" + bytes(size - 12) + b"last"
        sender = client.send_aside(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
        )
        reply = client.reply()
        sender.join()
        assert (reply.text, reply["X-On-Disk"]) == ("line\nabclast", on_disk)


CHUNKS = [b"5;ext=1\r\nhello\r\n", b"1\r\n \r\n", b"6\r\nworld!\r\n", b"0\r\nX-T: 1\r\n", b"\r\n"]


def test_a_chunked_body_is_decoded_however_it_is_cut(serve: Serve) -> None:
    client = serve(echo).connect()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b"".join(CHUNKS)
    for cut in (1, len(head) - 1, len(head), len(head) + 3, len(whole) - 1, len(whole)):
        client.send(whole[:cut])
        client.send(whole[cut:])
        assert client.reply().text == "hello world!"


def test_a_body_that_the_app_does_not_read_is_not_taken_for_a_request(serve: Serve) -> None:
    client = serve(says([b"x"])).connect()
    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    for _ in range(3):
        client.request("POST", "/", body=hidden)
        assert client.reply().text == "x"
    client.end()
    assert client.rest() == b""


def test_expect_100_continue(serve: Serve) -> None:
    client = serve(echo).connect()
    for _ in range(2):
        client.request("POST", "/", "Expect: 100-continue", "Content-Length: 2")
        assert client.reply().status == 100
        client.send(b"ab")
        assert client.reply().text == "ab"


def test_who_does_not_wait_for_the_100_does_not_get_one(serve: Serve) -> None:
    client = serve(echo).connect()
    client.request("POST", "/", "Expect: 100-continue", body=b"ab")
    assert client.reply().text == "ab"


def test_a_refusal_comes_instead_of_a_100(serve: Serve) -> None:
    client = serve(echo, limit_request_body=10).connect()
    client.request("POST", "/", "Expect: 100-continue", "Content-Length: 11")
    assert client.reply().status == 413
    assert client.rest() == b""


# ---- connections


def test_keep_alive_and_close(serve: Serve) -> None:
    served = serve(says([b"x"]))
    client = served.connect()
    for _ in range(3):
        assert client.get().keeps_alive
    client.request("GET", "/", "Connection: close")
    assert client.reply()["Connection"] == "close"
    assert client.rest() == b""


def test_keepalive_0_closes_after_each_response(serve: Serve) -> None:
    client = serve(says([b"x"]), keepalive=0).connect()
    assert client.get()["Connection"] == "close"
    assert client.rest() == b""


def test_http_1_0_closes_unless_asked(serve: Serve) -> None:
    served = serve(says([b"x"]))
    client = served.connect()
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    reply = client.reply()
    assert (reply["Connection"], reply["Content-Length"]) == ("keep-alive", "1")
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.reply()["Connection"] == "close"
    assert client.rest() == b""


def test_http_1_0_is_never_answered_in_chunks(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        yield b"to the "
        yield b"end"

    client = serve(app).connect()
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    reply = client.reply()
    assert (reply["Transfer-Encoding"], reply["Connection"]) == (None, "close")
    assert reply.text == "to the end"


def paths(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    if environ["PATH_INFO"].startswith("/stream"):
        return iter([environ["PATH_INFO"].encode(), environ["wsgi.input"].read()])
    return [environ["PATH_INFO"].encode(), environ["wsgi.input"].read()]


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    client = serve(paths, threads=1).connect()
    requests, answers = b"", []
    for number in range(50):
        kind = "stream" if number % 3 else "plain"
        body = b"+body" if number % 2 else b""
        requests += f"POST /{kind}{number} HTTP/1.1\r\nHost: a\r\n".encode()
        requests += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        answers.append(f"/{kind}{number}{body.decode()}")
    half = len(requests) // 2
    client.send(requests[:half])
    client.send(requests[half:])
    assert [client.reply().text for _ in answers] == answers


def test_nothing_is_served_after_a_request_that_closes(serve: Serve) -> None:
    client = serve(paths).connect()
    client.send(
        b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert client.reply().text == "/1"
    assert client.rest() == b""


def test_nothing_is_served_after_a_bad_request(serve: Serve) -> None:
    client = serve(paths).connect()
    client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.reply().text == "/1"
    assert client.reply().status == 400
    assert client.rest() == b""


def test_a_half_closed_client_is_answered(serve: Serve) -> None:
    client = serve(says([b"x", b"y"])).connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    client.end()
    for _ in range(3):
        assert client.reply().text == "xy"
    assert client.rest() == b""


def test_a_half_closed_client_waits_for_an_app_that_takes_time(serve: Serve, gate: Gate) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        gate.wait()
        start_response("200 OK", TEXT)
        yield b"x"
        gate.wait()
        yield b"y"

    client = serve(app).connect()
    client.request("GET", "/")
    client.end()
    gate.open()
    client.head()
    assert client.chunk() == b"x"
    gate.open()
    assert client.chunk() == b"y"
    assert client.rest() == b"0\r\n\r\n"


def test_a_client_that_ends_in_the_middle_of_a_request_is_not_answered(serve: Serve) -> None:
    served = serve(says([b"x"]))
    for part in (b"GET / HT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na"):
        client = served.connect()
        client.send(part)
        client.end()
        assert client.rest() == b""
    assert served.slot.counters[0] == 0


def test_a_client_that_resets_costs_nobody(serve: Serve, stack: ExitStack) -> None:
    import socket
    import struct

    served = serve(echo)
    for part in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 100):
        client = served.connect()
        client.send(part)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    assert served.get().status == 200
    assert served.stop(SIGTERM).status == 0


class Thing:
    """Something that an app keeps with a request."""


def test_a_request_that_is_over_is_no_garbage(serve: Serve) -> None:
    """It is gone at once: memory does not wait for the collector."""
    seen: list[weakref.ref[Thing]] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        gc.disable()
        alive = sum(one() is not None for one in seen)
        environ["thing"] = Thing()
        seen.append(weakref.ref(environ["thing"]))
        start_response("200 OK", TEXT)
        return iter([str(alive).encode()]) if environ["PATH_INFO"] == "/iter" else [b"%d" % alive]

    client = serve(app).connect()
    for path in ("/", "/iter", "/", "/iter", "/"):
        assert client.get(path).text == "0"
