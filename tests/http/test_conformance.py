"""PEP 3333 to the letter: the reference validator, environ and start_response."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

from tests.http.apps import TEXT, says
from tests.http.conftest import Serve
from tests.http.serving import App, Environ, StartResponse

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


def test_a_body_in_chunks_has_a_length(serve: Serve) -> None:
    """RFC 3875, 4.1.2: of the body "after the server has removed any transfer-codings"."""
    client = serve(show("CONTENT_LENGTH")).connect()
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for body, length in ((b"3\r\nabc\r\n2\r\nde\r\n", "'5'"), (b"", "'0'"), (b"1\r\na\r\n", "'1'")):
        client.send(head + body + b"0\r\n\r\n")
        assert client.reply().text == length
    assert client.get().text == "None"


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
