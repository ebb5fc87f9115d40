"""A worker's connection makes of its bytes what the grammar says, however they come."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from prefork_sd.http1 import BadRequest, Limits
from prefork_sd.workers.connection import BODY, HEAD, Connection
from prefork_sd.workers.terms import Terms
from tests.http.exchange import Exchange, exchange
from tests.http.test_grammar import ACCEPTED
from tests.http.test_smuggling import ANSWERED, REFUSED

PUT = b"PUT /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
CASES: dict[str, bytes] = {
    **ACCEPTED,
    **{f"refused: {name}": data for name, (_, data) in REFUSED.items()},
    **{f"answered: {name}": data for name, (_, _, data) in ANSWERED.items()},
    "bodies in a row": b"".join(PUT % (size, size, b"\r\n" * (size // 2)) for size in (2, 8, 2)),
    "a body that looks like a head": PUT % (1, 36, b"GET /hidden HTTP/1.1\r\nHost: aaaa\r\n\r\n"),
    "a body of empty lines": PUT % (1, 8, b"\r\n\r\n\r\n\r\n") + PUT % (2, 0, b""),
    "a body and too much": PUT % (1, 2, b"abcd") + PUT % (2, 0, b""),
    "a body and an empty line": PUT % (1, 2, b"ab\r\n") + PUT % (2, 1, b"c"),
    "a body that is not whole": PUT % (1, 9, b"abcd"),
}


@contextmanager
def connected(terms: Terms) -> Iterator[Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(terms, ours.detach(), ("", ""))
        yield connection
        connection.close()


def terms(body_buffer: int = 1 << 20, limits: Limits | None = None) -> Terms:
    return Terms({}, limits or Limits(), body_buffer=body_buffer, send_timeout=1)


def taken(pieces: Iterable[bytes], terms: Terms) -> Exchange:
    """What a connection that gets its bytes in these pieces takes them for."""
    seen = Exchange()
    with connected(terms) as connection:
        for piece in pieces:
            connection.take(piece)
            try:
                while request := connection.next_request():
                    seen.heads.append(request.head)
                    seen.bodies.append(request.body.read())
                    seen.trailers.append([])
                    request.close()
                    if not request.head.keep_alive:
                        return seen
            except BadRequest as error:
                seen.refused, seen.reason = error.status, str(error)
                return seen
        seen.waiting = connection.phase is BODY or len(connection.buffer) > 0
    return seen


def expected(data: bytes) -> Exchange:
    seen = exchange([data])
    seen.trailers = [[] for _ in seen.heads]
    return seen


@pytest.mark.parametrize("body_buffer", [0, 1 << 20])
@pytest.mark.parametrize("name", CASES)
def test_pieces_do_not_matter(name: str, body_buffer: int) -> None:
    data, known = CASES[name], terms(body_buffer)
    whole = expected(data)
    for _ in range(3):
        assert taken([data], known) == whole, "whole"
    for at in range(1, len(data), 1 if body_buffer else 5):
        assert taken([data[:at], data[at:]], known) == whole, f"cut at {at}"
    for size in (1, 7):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert taken(pieces, known) == whole, f"{size} at a time"


def test_a_body_that_came_with_its_head_in_pieces_is_whole() -> None:
    data = bytes(range(256)) * 1024
    whole = PUT % (1, len(data), data)
    for size in (1000, 4096, 65536, 98304, len(whole)):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        assert taken(pieces, terms()).bodies == [data]


def test_a_body_beyond_its_limit_is_refused_however_it_comes() -> None:
    data = PUT % (1, 11, b"x" * 11)
    small = terms(limits=Limits(body=10))
    for at in range(len(data) - 12, len(data) + 1):
        assert taken([data[:at], data[at:]], small).refused == 413


def test_continue_is_only_said_where_the_body_waits_for_it() -> None:
    data = b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    for behind, said in ((b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"a", b""), (b"abc", b"")):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        connection = Connection(terms(), ours.detach(), ("", ""))
        connection.take(data + behind)
        assert (connection.next_request() is None) == (behind != b"abc")
        assert connection.phase is (HEAD if behind == b"abc" else BODY)
        connection.close()
        with theirs:
            assert theirs.recv(100) == said
