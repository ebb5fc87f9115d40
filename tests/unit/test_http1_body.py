"""Request bodies: fixed and chunked."""

import pytest

from prefork_sd.http1 import (
    LAST_CHUNK,
    BadRequest,
    ChunkedBody,
    FixedBody,
    Head,
    HeadReader,
    Limits,
    body_reader,
    chunk,
)


def read_head(*fields: bytes) -> Head:
    data = b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *fields, b"", b""])
    head = HeadReader(Limits()).read(bytearray(data))
    assert head is not None
    return head


def test_a_fixed_body_takes_no_more_than_its_length() -> None:
    body = FixedBody(5)
    buffer = bytearray(b"abc")
    assert (body.read(buffer), body.done, bytes(buffer)) == (b"abc", False, b"")
    assert (body.read(buffer), body.done) == (b"", False)
    buffer += b"deGET"
    assert (body.read(buffer), body.done, bytes(buffer)) == (b"de", True, b"GET")
    assert (body.read(buffer), bytes(buffer)) == (b"", b"GET")


def test_a_fixed_body_counts_what_is_all_its_own() -> None:
    body = FixedBody(5)
    assert (body.take(3), body.done) == (True, False)
    assert (body.take(3), body.done) == (False, False)
    assert (body.read(bytearray(b"d")), body.done) == (b"d", False)
    assert (body.take(1), body.done) == (True, True)
    assert (body.take(0), body.take(1)) == (True, False)


def test_an_empty_fixed_body_is_done() -> None:
    assert FixedBody(0).done


def test_a_chunked_body_hands_over_what_is_there() -> None:
    body = ChunkedBody(Limits())
    buffer = bytearray(b"5\r\nab")
    assert body.read(buffer) == b"ab"
    buffer += b"cd"
    assert (body.read(buffer), bytes(buffer)) == (b"cd", b"")
    buffer += b"e\r\n1\r\nf\r\n0\r\nX-Sum: 1\r\nx_sum: 2\r\nY: \xe4 \r\n\r\nGET"
    assert (body.read(buffer), bytes(buffer), body.done) == (b"ef", b"GET", True)
    assert body.trailers == [("X-Sum", "1"), ("Y", "\xe4")]
    assert (body.read(buffer), bytes(buffer)) == (b"", b"GET")


def test_many_tiny_chunks() -> None:
    buffer = bytearray(b"1\r\nx\r\n" * 50_000 + LAST_CHUNK)
    body = ChunkedBody(Limits())
    assert body.read(buffer) == b"x" * 50_000
    assert (body.done, bytes(buffer)) == (True, b"")


def test_what_we_encode_we_decode() -> None:
    pieces = [b"", b"a", b"\r\n", bytes(range(256)) * 10, b"0\r\n\r\n"]
    body = ChunkedBody(Limits())
    encoded = b"".join(map(chunk, pieces)) + LAST_CHUNK
    assert body.read(bytearray(encoded)) == b"".join(pieces)
    assert body.done


def test_which_body_a_request_has() -> None:
    assert body_reader(read_head(), Limits()) is None
    assert body_reader(read_head(b"Content-Length: 0"), Limits()) is None
    assert isinstance(body_reader(read_head(b"Content-Length: 1"), Limits()), FixedBody)
    assert isinstance(body_reader(read_head(b"Transfer-Encoding: chunked"), Limits()), ChunkedBody)


def test_a_limit_of_zero_is_none() -> None:
    unlimited, large = Limits(body=0), b"9" * 18
    fixed = body_reader(read_head(b"Content-Length: " + large), unlimited)
    assert isinstance(fixed, FixedBody)
    assert ChunkedBody(unlimited).read(bytearray(b"ffffffffffffffff\r\nab")) == b"ab"


def test_too_large_bodies_are_refused_before_they_come() -> None:
    limits = Limits(body=10)
    with pytest.raises(BadRequest) as fixed:
        body_reader(read_head(b"Content-Length: 11"), limits)
    body = ChunkedBody(limits)
    assert body.read(bytearray(b"a\r\n0123456789\r\n")) == b"0123456789"
    with pytest.raises(BadRequest) as chunked:
        body.read(bytearray(b"1\r\n"))
    assert (fixed.value.status, chunked.value.status) == (413, 413)
