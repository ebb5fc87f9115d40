"""Responses in the making, with a client on paper that takes as much as the test says."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from prefork_sd.http1 import Head, HeadReader, Limits
from prefork_sd.wsgi import (
    Bounds,
    FileSlice,
    FileWrapper,
    Piece,
    Response,
    base_environ,
    make_environ,
    shape_of,
    shapes,
)
from prefork_sd.wsgi.files import Spool

StartResponse = Callable[..., Callable[[bytes], None]]
TEXT = [("Content-Type", "text/plain")]


def head_of(line: str = "GET / HTTP/1.1", *fields: str) -> Head:
    raw = "\r\n".join([line, "Host: a", *fields, "", ""]).encode()
    head = HeadReader(Limits()).read(bytearray(raw))
    assert head is not None
    return head


class Client:
    """Takes everything, nothing, or has left."""

    def __init__(self, takes: bool = True) -> None:
        self.takes = takes
        self.gone = False
        self.response: Response
        self.got = b""
        self.waits = 0
        self.interims = b""

    def flush(self) -> bool:
        if self.gone:
            return False
        if self.takes:
            self._take()
        return True

    def wait(self) -> bool:
        self.waits += 1
        self._take()
        return not self.gone

    def interim(self, data: bytes) -> None:
        self.interims += data

    def _take(self) -> None:
        out, response = self.response.out, self.response
        while out:
            piece = out.pop(0)
            assert not isinstance(piece, FileSlice)
            self.got += piece
            response.pending -= len(piece)
            response.started = True


def response_for(
    client: Client, head: Head | None = None, room: int = 100, *, keep_alive: bool = True
) -> Response:
    client.response = Response(head or head_of(), client, keep_alive, Bounds(room, 0))
    return client.response


def run(app: Any, head: Head | None = None, *, keep_alive: bool = True) -> tuple[Response, bytes]:
    """Let an app answer a client that takes everything."""
    client = Client()
    response = response_for(client, head, keep_alive=keep_alive)
    response.begin(app, {})
    while not response.done:
        response.produce()
    response.finish()
    client.flush()
    return response, client.got


def answers(body: Iterable[bytes], status: str = "200 OK", *headers: tuple[str, str]) -> Any:
    def app(environ: object, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [*TEXT, *headers])
        return body

    return app


# ---- room


def test_the_app_yields_no_more_than_there_is_room_for() -> None:
    made: list[int] = []

    def blocks() -> Iterator[bytes]:
        for number in range(10):
            made.append(number)
            yield b"x" * 60

    client = Client(takes=False)
    response = response_for(client, room=100)
    response.begin(answers(blocks()), {})
    assert made == [0]  # the head and one block are more than the room
    assert not response.done
    client.wait()
    response.produce()
    assert made == [0, 1, 2]
    client.takes = True
    response.produce()
    client.wait()
    response.produce()
    assert response.done
    client.flush()
    assert client.got.endswith(b"0\r\n\r\n")
    assert response.sent == 600


def test_write_waits_only_when_there_is_no_room() -> None:
    def app(environ: object, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", TEXT)
        write(b"x")
        assert client.waits == 0 or response.pending == 0
        write(b"x" * 2000)
        return []

    client = Client(takes=False)
    response = response_for(client, room=1000)
    response.begin(app, {})
    assert client.waits == 1
    assert response.failure is None


class Taker(Client):
    """Takes nothing until it is asked to wait; then everything, from files too."""

    def _take(self) -> None:
        for piece in self.response.out:
            if isinstance(piece, FileSlice):
                self.got += os.pread(piece.fd, piece.left, piece.offset)
                piece.left = 0
            else:
                self.got += piece
                self.response.pending -= len(piece)
        self.response.out.clear()


def test_what_a_slow_client_has_not_taken_waits_in_a_file() -> None:
    blocks = [bytes([number]) * 60 for number in range(10)]
    client = Taker(takes=False)
    client.response = response = Response(head_of(), client, True, Bounds(100, 10_000))
    response.begin(answers(iter(blocks), "200 OK", ("Content-Length", "600")), {})
    assert response.done
    assert response.pending < 300
    client.wait()
    response.finish()
    assert client.got.endswith(b"".join(blocks))


def test_the_file_is_used_again_when_all_of_it_was_taken() -> None:
    spool, out = Spool(), list[Piece]()
    spool.add(b"abc", out)
    spool.add(b"def", out)
    [first] = out
    assert isinstance(first, FileSlice)
    assert os.pread(first.fd, 6, first.offset) == b"abcdef"
    first.offset, first.left = 6, 0
    out.clear()
    spool.add(b"ghi", out)
    out.append(b"in memory")
    spool.add(b"jkl", out)
    assert os.fstat(first.fd).st_size == 6
    pieces = [os.pread(one.fd, one.left, one.offset) for one in out if isinstance(one, FileSlice)]
    assert pieces == [b"ghi", b"jkl"]
    assert spool.size == 6
    spool.close()


def test_the_file_does_not_grow_with_what_a_client_has_taken_already() -> None:
    """One that reads as fast as the app makes it, and so is never quite done."""

    class Follower(Taker):
        def flush(self) -> bool:
            for piece in self.response.out:
                if isinstance(piece, FileSlice) and piece.left > 60:
                    piece.offset, piece.left = piece.offset + piece.left - 60, 60
                    sizes.append(os.fstat(piece.fd).st_size)
            return True

    sizes: list[int] = []

    def app(environ: object, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", TEXT)
        for _ in range(1000):
            write(b"x" * 60)
        return []

    client = Follower()
    client.response = response = Response(head_of(), client, True, Bounds(100, 10_000))
    response.begin(app, {})
    response.finish()
    assert response.failure is None
    assert 5_000 < max(sizes) < 11_000


def test_a_full_disk_makes_the_app_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    client = Taker(takes=False)
    client.response = response = Response(head_of(), client, True, Bounds(100, 10_000))
    response.begin(answers(iter([b"x" * 60] * 10), "200 OK", ("Content-Length", "600")), {})
    assert not response.done
    for _ in range(10):
        client.wait()
        response.produce()
    assert response.done
    assert response.failure is None
    client.wait()
    assert client.got.endswith(b"x" * 600)


def test_a_client_that_has_left_is_no_failure_of_the_app() -> None:
    def app(environ: object, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)(b"x")
        return []

    for answer in (app, answers(iter([b"a", b"b"]))):
        client = Client()
        client.gone = True
        response = response_for(client)
        response.begin(answer, {})
        assert (response.broken, response.done, response.failure) == (True, True, None)
        assert response.status == 200


def test_a_round_ends_though_there_is_more() -> None:
    client = Client()
    client.response = response = Response(head_of(), client, True, Bounds(10_000, 0, seconds=-1.0))
    response.begin(answers(iter([b"a", b"b"])), {})
    assert client.got.endswith(b"1\r\na\r\n")
    assert not response.done
    response.produce()
    response.produce()
    assert response.done


# ---- heads


def test_a_head_is_made_of_what_the_app_says_and_of_what_is_ours() -> None:
    _, got = run(answers([b"abc"], "200 OK", ("X-A", "\xe9")))
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert (first, body) == (b"HTTP/1.1 200 OK", b"abc")
    assert lines[:2] == [b"Content-Type: text/plain", b"X-A: \xe9"]
    assert {line.partition(b":")[0] for line in lines[2:]} == {
        b"Content-Length",
        b"Date",
        b"Server",
    }


def test_a_shape_is_checked_once_but_a_bad_one_each_time() -> None:
    assert shape_of("200 OK", TEXT) is shape_of("200 OK", list(TEXT))
    for _ in range(2):
        with pytest.raises(ValueError, match="X"):
            shape_of("200 OK", [("X", "a\r\nb")])


def test_shapes_do_not_pile_up() -> None:
    for number in range(3 * shapes.SHAPES):
        shape_of("200 OK", [("X", str(number))])
    assert len(shapes._shapes) <= shapes.SHAPES


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive", "connection"),
    [
        ("GET / HTTP/1.1", (), True, b""),
        ("GET / HTTP/1.1", (), False, b"Connection: close"),
        ("GET / HTTP/1.0", ("Connection: keep-alive",), True, b"Connection: keep-alive"),
        ("GET / HTTP/1.0", (), False, b"Connection: close"),
    ],
)
def test_whether_the_connection_lives_on_is_said(
    line: str, fields: tuple[str, ...], keep_alive: bool, connection: bytes
) -> None:
    response, got = run(answers([b"x"]), head_of(line, *fields), keep_alive=keep_alive)
    assert [one for one in got.split(b"\r\n") if one.startswith(b"Connection")] == (
        [connection] if connection else []
    )
    assert response.keep_alive is keep_alive


def test_an_http_1_0_client_is_told_the_end_by_the_end() -> None:
    head = head_of("GET / HTTP/1.0", "Connection: keep-alive")
    response, got = run(answers(iter([b"a", b"b"])), head)
    assert got.endswith(b"\r\n\r\nab")
    assert b"Connection: close" in got
    assert not response.keep_alive


def test_an_app_that_was_too_slow_does_not_keep_its_client() -> None:
    client = Client()
    client.response = Response(head_of(), client, True, Bounds(10_000, 0), patience=0.0)
    client.response.begin(answers([b"x"]), {})
    client.wait()
    assert b"Connection: close" in client.got
    assert not client.response.keep_alive


def test_early_hints_go_ahead_of_the_response() -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ["hints"]([("Link", "</a.css>; rel=preload")])
        start_response("200 OK", TEXT)
        return [b"x"]

    for line, hints in (("GET / HTTP/1.1", 1), ("GET / HTTP/1.0", 0)):
        client = Client()
        response = response_for(client, head_of(line))
        response.begin(app, {"hints": response.early_hints})
        assert client.interims.count(b"HTTP/1.1 103 Early Hints\r\n") == hints
        assert response.status == 200


# ---- exc_info


def test_what_was_not_sent_yet_is_taken_back() -> None:
    def app(environ: object, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oops", TEXT, sys.exc_info())
        return [b"oops"]

    response, got = run(app)
    assert (response.status, got.count(b"HTTP/1.1")) == (500, 1)
    assert response.failure is None


def test_an_app_that_fails_after_it_yielded_to_nobody_yet_is_a_500() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"lost"
        raise ValueError("on purpose")

    client = Client(takes=False)
    response = response_for(client, room=1000)
    response.begin(answers(blocks()), {})
    client.wait()
    assert client.got.startswith(b"HTTP/1.1 500 ")
    assert b"lost" not in client.got
    assert isinstance(response.failure, ValueError)
    assert not response.broken  # the connection can live on


def test_an_app_that_exits_is_a_failed_request() -> None:
    def app(environ: object, start_response: StartResponse) -> Iterable[bytes]:
        sys.exit(3)

    response, got = run(app)
    assert got.startswith(b"HTTP/1.1 500 ")
    assert isinstance(response.failure, SystemExit)


def test_finish_closes_once_and_keeps_the_first_failure() -> None:
    class Body:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            raise ValueError("first")

        def close(self) -> None:
            self.closed += 1
            raise ValueError("second")

    body = Body()
    response, _ = run(answers(body))
    response.finish()
    assert body.closed == 1
    assert str(response.failure) == "first"


# ---- file_wrapper


def test_only_a_file_that_reads_as_it_stands_on_the_disk_is_left_to_the_kernel(
    tmp_path: Any,
) -> None:
    import gzip

    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        file.read(4)
        assert FileWrapper(file).regular() == (file.fileno(), 4, 6)
        assert b"".join(FileWrapper(file, 4)) == b"456789"
    with gzip.open(path, "rb") as packed:
        assert FileWrapper(packed).regular() is None
    with path.open("r") as text:
        assert FileWrapper(text).regular() is None
    assert FileWrapper(io.BytesIO(b"x")).regular() is None
    assert FileWrapper(file).regular() is None  # closed


def test_a_wrapper_without_a_close_closes_nothing() -> None:
    class Reads:
        def read(self, size: int) -> bytes:
            return b""

    FileWrapper(Reads()).close()  # type: ignore[arg-type]


# ---- environ


@pytest.mark.parametrize(
    ("mount", "target", "script_name", "path_info"),
    [
        ("", "/", "", "/"),
        ("", "/a%2Fb%C3%A9?x=%20", "", "/a/b\xc3\xa9"),
        ("/shop", "/shop/cart", "/shop", "/cart"),
        ("/shop", "/shop", "/shop", ""),
        ("/shop", "/shopping", "/shop", "/shopping"),
        ("", "http://a/b?c", "", "/b"),
    ],
)
def test_script_name_and_path_info(
    mount: str, target: str, script_name: str, path_info: str
) -> None:
    base = base_environ(
        server_name="a",
        server_port="80",
        scheme="http",
        script_name=mount,
        multithread=False,
        multiprocess=True,
    )
    head = head_of(f"GET {target} HTTP/1.1")
    environ = make_environ(base, ("127.0.0.1", "1"), head, io.BytesIO())
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)
    assert environ["QUERY_STRING"] == target.partition("?")[2]
    assert environ["RAW_URI"] == target
    assert base["REMOTE_ADDR"] is None  # a base is shared
