"""PEP 3333 and the framing of RFC 9112, from a raw socket to an app and back."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, Any
from wsgiref.validate import validator

import pytest

from tests.http.conftest import Serve
from tests.http.serving import App, Environ, Gate, StartResponse, Wire

TEXT = [("Content-Type", "text/plain")]


def says(body: Iterable[bytes], status: str = "200 OK", *headers: tuple[str, str]) -> App:
    """An app that always answers with that."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [*TEXT, *headers])
        return body

    return app


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
    return [body]


class Closing:
    """An iterable that says when it is closed; the last block can be an error."""

    def __init__(self, wire: Wire, *blocks: bytes | BaseException) -> None:
        self.wire = wire
        self.blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks:
            if isinstance(block, BaseException):
                raise block
            yield block

    def close(self) -> None:
        self.wire.say("closed")


# ---- wsgiref.validate


def valid(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"]
    read = b"".join([body.read(2), body.readline(), *body.readlines(1), *body])
    write = start_response("200 OK", [*TEXT, ("X-Read", str(len(read)))])
    if environ["PATH_INFO"] == "/write":
        write(b"written ")
    if environ["REQUEST_METHOD"] == "HEAD":
        return [b""]
    return (piece for piece in (b"and ", b"", b"yielded"))


@pytest.mark.parametrize("path", ["/", "/write", "/a%20b?c=d", "/%ff//../x;y=z?"])
def test_the_reference_validator_has_no_complaint(serve: Serve, path: str) -> None:
    served = serve(validator(valid))
    client = served.connect()
    for body in (b"", b"one\ntwo\nthree"):
        client.request("POST", path, "Content-Type: text/plain", "X-Y: 1", "x-y: 2", body=body)
        reply = client.reply()
        assert (reply.status, reply["X-Read"]) == (200, str(len(body))), reply.body
        assert reply.text.endswith("and yielded")
    client.request("HEAD", "/")
    assert client.reply("HEAD").status == 200
    client.close()
    served.stop()
    assert not [line for line in served.log.rest() if not line.startswith("DEBUG")]


# ---- environ


def show(key: str) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return [repr(environ.get(key)).encode()]

    return app


HIDDEN = ("input", "errors", "file_wrapper", "multithread", "early_hints")


def test_environ_has_everything(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        hidden = {f"wsgi.{name}" for name in HIDDEN}
        assert type(environ) is dict
        assert environ["wsgi.errors"] is sys.stderr
        shown = {key: value for key, value in environ.items() if key not in hidden}
        return [repr(shown).encode()]

    served = serve(app)
    client = served.connect()
    line = "/a%2Fb/%C3%A9?q=%20&r"
    client.request("PUT", line, "Content-Type: a/b", "X-A: 1", "X-A: 2", "Cookie: c", body=b"xy")
    environ = eval(client.reply().body)
    address, port = client.sock.getsockname()
    expected = {
        "REQUEST_METHOD": "PUT",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b/Ã©",  # bytes as latin-1
        "QUERY_STRING": "q=%20&r",
        "RAW_URI": line,
        "REQUEST_URI": line,
        "CONTENT_TYPE": "a/b",
        "CONTENT_LENGTH": "2",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(served.listener.where.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "prefork-sd",
        "REMOTE_ADDR": address,
        "REMOTE_PORT": str(port),
        "HTTP_HOST": "test",
        "HTTP_X_A": "1,2",
        "HTTP_COOKIE": "c",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    ours = {key for key in environ if key.startswith("PREFORK_SD_")}
    assert {key: environ[key] for key in environ if key not in ours} == expected


def test_multithread_is_true_where_it_is(serve_sync: Serve, serve_threads: Serve) -> None:
    app = show("wsgi.multithread")
    assert serve_sync(app).get().text == "False"
    assert serve_threads(app, threads=2).get().text == "True"


def test_a_unix_socket_has_a_name_and_a_port_too(serve: Serve, tmp_path: Path) -> None:
    served = serve(validator(valid), bind=f"unix:{tmp_path}/app.sock")
    assert served.get().status == 200


def test_each_request_has_an_environ_of_its_own(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen = [key for key in ("left.behind", "HTTP_X") if key in environ]
        environ["left.behind"] = environ["HTTP_X"] = environ["SERVER_NAME"] = "x"
        start_response("200 OK", TEXT)
        return [repr(seen).encode()]

    client = serve(app).connect()
    assert [client.get().text for _ in range(3)] == ["[]"] * 3


# ---- start_response


def test_the_headers_go_out_as_they_were_given(serve: Serve) -> None:
    headers = [("X-B", "1"), ("x-a", "ä\t2"), ("X-B", "3"), ("Date", "then"), ("Server", "mine")]
    reply = serve(says([b"x"], "299 Very  Well", *headers)).get()
    assert (reply.version, reply.status, reply.reason) == ("HTTP/1.1", 299, "Very  Well")
    assert [field for field in reply.fields if field in headers] == headers
    assert reply["Date"] == "then"
    assert reply["Server"] == "mine"


def test_a_date_and_a_server_are_added(serve: Serve) -> None:
    reply = serve(says([b"x"])).get()
    assert (reply["Date"] or "").endswith(" GMT")
    assert reply["Server"] == "prefork-sd"


BAD_ANSWERS: dict[str, tuple[object, object]] = {
    "CR LF in a value": ("200 OK", [("X", "a\r\nSet-Cookie: b")]),
    "LF in a value": ("200 OK", [("X", "a\nb")]),
    "NUL in a value": ("200 OK", [("X", "a\0b")]),
    "CR LF in a name": ("200 OK", [("X\r\nY", "a")]),
    "colon in a name": ("200 OK", [("X:", "a")]),
    "an empty name": ("200 OK", [("", "a")]),
    "not latin-1": ("200 OK", [("X", "\u20ac")]),
    "a value in bytes": ("200 OK", [("X", b"a")]),
    "a value of int": ("200 OK", [("Content-Length", 1)]),
    "a list for a header": ("200 OK", [["X", "a"]]),
    "headers in a tuple": ("200 OK", (("X", "a"),)),
    "headers that are None": ("200 OK", None),
    "hop-by-hop": ("200 OK", [("Connection", "close")]),
    "Transfer-Encoding": ("200 OK", [("Transfer-Encoding", "chunked")]),
    "two lengths": ("200 OK", [("Content-Length", "1"), ("Content-Length", "2")]),
    "the same length twice": ("200 OK", [("Content-Length", "1"), ("Content-Length", "1")]),
    "a negative length": ("200 OK", [("Content-Length", "-1")]),
    "a list of lengths": ("200 OK", [("Content-Length", "1, 1")]),
    "a status without reason": ("200", []),
    "a status of int": (200, []),
    "a status in bytes": (b"200 OK", []),
    "CR LF in the status": ("200 OK\r\nX: y", []),
    "an interim status": ("101 Switching Protocols", []),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_what_pep_3333_forbids_is_a_500(serve_sync: Serve, name: str) -> None:
    status, headers = BAD_ANSWERS[name]

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, headers)
        return [b"x"]

    served = serve_sync(app)
    reply = served.get()
    assert (reply.status, reply.text) == (500, "Internal Server Error\n")
    assert reply["Set-Cookie"] is None
    line = served.log.hear()
    assert line.startswith("ERROR GET / 500"), line


def failing(kind: str) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Any:
        if kind == "raises":
            raise ValueError("on purpose")
        if kind == "exits":
            sys.exit("on purpose")
        if kind == "unprintable":
            raise UnprintableError
        if kind == "no start_response":
            return [b"x"]
        if kind == "no start_response, a generator":
            return iter([b"x"])
        if kind == "no start_response, nothing":
            return []
        start_response("200 OK", TEXT)
        if kind == "starts twice":
            start_response("200 OK", TEXT)
        if kind == "yields text":
            return ["x"]
        if kind == "yields text, a generator":
            return iter(["x"])
        if kind == "yields text at last":
            return [b"x", "y"]
        if kind == "returns None":
            return None
        return (1 / 0 for _ in range(1))

    return app


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    "kind",
    [
        "raises",
        "exits",
        "unprintable",
        "no start_response",
        "no start_response, a generator",
        "no start_response, nothing",
        "starts twice",
        "yields text",
        "yields text, a generator",
        "yields text at last",
        "returns None",
        "raises in its iterable",
    ],
)
def test_an_app_that_fails_is_a_500_and_one_record(serve: Serve, kind: str) -> None:
    served = serve(failing(kind))
    client = served.connect()
    for _ in range(2):  # and the worker lives on
        reply = client.get("/path?secret")
        assert (reply.status, reply.text) == (500, "Internal Server Error\n")
        assert served.log.hear().startswith("ERROR GET /path 500 ")
    client.close()
    served.stop()
    assert [line for line in served.log.rest() if "500" in line] == []
    assert served.slot.counters[:2] == (2, 2)


def error_pages(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """As an error page middleware: it replaces what was started."""
    write = start_response("200 OK", [*TEXT, ("X-First", "1"), ("Content-Length", "100")])
    try:
        if environ["PATH_INFO"] == "/sent":
            write(b"sent")
        raise ValueError("on purpose")
    except ValueError:
        start_response("503 Sorry", TEXT, sys.exc_info())
    return [b"error page"]


def test_exc_info_replaces_what_was_not_sent(serve: Serve) -> None:
    reply = serve(error_pages).get()
    assert (reply.status, reply.text, reply["X-First"]) == (503, "error page", None)
    assert reply["Content-Length"] == "10"


def test_exc_info_raises_again_what_comes_too_late(serve: Serve) -> None:
    served = serve(error_pages)
    client = served.connect()
    client.request("GET", "/sent")
    assert client.head()["X-First"] == "1"
    assert client.take(4) == b"sent"
    with pytest.raises(ConnectionResetError):
        client.rest()
    assert "ValueError: on purpose" in served.log.hear()


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


@pytest.mark.parametrize("body", [[b"abc"], (b"a", b"bc"), Closing(Wire(), b"abc")])
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
    assert served.connect()  # and the worker lives on


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


def test_a_close_that_fails_is_one_record_and_costs_nobody_else(serve: Serve) -> None:
    class Bad(Closing):
        def close(self) -> None:
            raise ValueError("on purpose")

    served = serve(says(Bad(Wire(), b"a")))
    client = served.connect()
    for _ in range(2):
        assert client.get().text == "a"
        assert "ValueError: on purpose" in served.log.hear()


# ---- wsgi.file_wrapper

CONTENT = bytes(range(256)) * 4096  # 1 MiB


def sends(make: Callable[[], IO[bytes]], *headers: tuple[str, str]) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, *headers])
        body: Iterable[bytes] = environ["wsgi.file_wrapper"](make(), 1000)
        return body

    return app


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_sent_with_its_length(serve: Serve, path: Path) -> None:
    client = serve(sends(lambda: path.open("rb"))).connect()
    for _ in range(2):
        reply = client.get()
        assert reply["Content-Length"] == str(len(CONTENT))
        assert reply.body == CONTENT


def test_a_file_is_sent_from_where_it_stands(serve: Serve, path: Path) -> None:
    def at(offset: int) -> IO[bytes]:
        file = path.open("rb")
        file.read(offset)
        return file

    assert serve(sends(lambda: at(1000))).get().body == CONTENT[1000:]
    assert serve(sends(lambda: at(len(CONTENT)))).get().body == b""


def test_a_file_is_cut_at_its_length(serve: Serve, path: Path) -> None:
    reply = serve(sends(lambda: path.open("rb"), ("Content-Length", "1000"))).get()
    assert reply.body == CONTENT[:1000]


def test_a_file_that_is_too_short_cannot_be_taken_for_whole(serve: Serve, path: Path) -> None:
    length = ("Content-Length", str(len(CONTENT) + 1))
    client = serve(sends(lambda: path.open("rb"), length)).connect()
    client.request("GET", "/")
    client.head()
    with pytest.raises(ConnectionResetError):
        client.rest()


def test_head_does_not_send_a_file(serve: Serve, path: Path) -> None:
    client = serve(sends(lambda: path.open("rb"))).connect()
    for _ in range(2):
        client.request("HEAD", "/")
        assert client.reply("HEAD")["Content-Length"] == str(len(CONTENT))


def temporary(make: Callable[[], Any]) -> IO[bytes]:
    file: IO[bytes] = make()
    file.write(CONTENT)
    file.seek(0)
    return file


def compressed(path: Path) -> IO[bytes]:
    """It has a descriptor and a position, but not of what it reads."""
    import gzip

    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(CONTENT))
    return gzip.open(packed)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: io.BytesIO(CONTENT),
        lambda path: temporary(TemporaryFile),
        lambda path: temporary(NamedTemporaryFile),
        lambda path: path.open("rb", buffering=0),
        compressed,
    ],
    ids=["memory", "unnamed", "named", "unbuffered", "compressed"],
)
def test_whatever_reads_like_a_file_is_sent_as_it_reads(
    serve_sync: Serve, path: Path, make: Callable[[Path], IO[bytes]]
) -> None:
    assert serve_sync(sends(lambda: make(path))).get().body == CONTENT


def test_a_pipe_is_read(serve_sync: Serve) -> None:
    def pipe() -> IO[bytes]:
        reader, writer = os.pipe()
        os.write(writer, b"through a pipe")
        os.close(writer)
        return os.fdopen(reader, "rb")

    assert serve_sync(sends(pipe)).get().text == "through a pipe"


def test_a_file_of_the_kernel_without_a_size_is_read(serve_sync: Serve) -> None:
    path = Path("/proc/version")
    assert serve_sync(sends(lambda: path.open("rb"))).get().body == path.read_bytes()


def test_a_file_is_closed_once_when_it_is_sent_and_when_the_client_left(
    serve: Serve, path: Path, wire: Wire
) -> None:
    class Noted(io.FileIO):
        def close(self) -> None:
            if not self.closed:
                wire.say("closed")
            super().close()

    path.write_bytes(bytes(64 << 20))
    served = serve(sends(lambda: Noted(path)))
    client = served.connect(buffer=4096)
    client.request("GET", "/")
    client.head()
    client.close()
    assert wire.hear() == "closed"
    assert served.get().status == 200
    assert wire.hear() == "closed"
    served.stop()
    assert wire.rest() == []


def test_a_wrapper_that_is_not_returned_itself_is_only_an_iterable(
    serve: Serve, path: Path
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return (block.upper() for block in environ["wsgi.file_wrapper"](path.open("rb")))

    path.write_bytes(b"small")
    assert serve(app).get().text == "SMALL"


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
