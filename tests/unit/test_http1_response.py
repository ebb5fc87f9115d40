"""Response heads: what an app may say, and the bytes of it."""

from typing import Any

import pytest

from prefork_sd.http1 import check_headers, check_status, chunk, encode_head, error_response


class Text(str):
    """No str, though it looks like one (PEP 3333 asks for the type itself)."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("status", "code"),
    [("200 OK", 200), ("404 Not Found", 404), ("999 x", 999), ("299 ", 299), ("200 \xfcber", 200)],
)
def test_good_status(status: str, code: int) -> None:
    for _ in range(2):
        assert check_status(status) == code


@pytest.mark.parametrize(
    "status",
    [
        *("", "200", "20 OK", "2000 OK", "099 x", "000 x", "-20 x", " 200 OK", "200\tOK", "OK"),
        *("200 OK\r\n", "200 OK\n", "200 O\rK", "200 \0", "200 \x7f", "200 \u20ac", "٢٠٠ OK"),
        *(200, None, b"200 OK", Text("201 Created"), ["200 OK"]),
    ],
)
def test_bad_status(status: Any) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="status"):
            check_status(status)


@pytest.mark.parametrize(
    "header",
    [
        ("X", "a"),
        ("Set-Cookie", "a=b; Path=/"),
        ("!#$%&'*+-.^_`|~9", ""),
        ("X", "a\tb \xe4\x80\xff"),
        ("Content-Length", "3"),
        ("Trailer-Like", "x"),
    ],
)
def test_good_header(header: tuple[str, str]) -> None:
    check_headers([header])
    line = f"{header[0]}: {header[1]}\r\n".encode("latin-1")
    assert encode_head("200 OK", [header], b"") == b"HTTP/1.1 200 OK\r\n" + line + b"\r\n"


@pytest.mark.parametrize(
    "header",
    [
        *(("X-Bad", "a\r\nY: b"), ("X-Bad", "a\n"), ("X-Bad", "a\r"), ("X-Bad", "\0")),
        *(("X-Bad", "\x1b"), ("X-Bad", "\x7f"), ("X-Bad", "\u20ac"), ("X-Bad", 3)),
        *(("X-Bad", None), ("X-Bad", b"a"), ("X-Bad", ["a"]), ("X-Bad", Text("new"))),
    ],
)
def test_bad_value_names_the_header_only(header: Any) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="'X-Bad'") as caught:
            check_headers([("Good", "x"), header])
        assert "Y: b" not in str(caught.value)
        with pytest.raises(ValueError, match="'X-Bad'"):
            encode_head("200 OK", [header], b"")


@pytest.mark.parametrize(
    "header",
    [
        *(("", "a"), ("X Y", "a"), ("X:", "a"), ("X\r\n", "a"), ("\xe4", "a"), (b"X", "a")),
        *((1, "a"), (None, "a"), ("X",), ("X", "a", "b"), (), ["X", "a"], "Xa", None),
    ],
)
def test_bad_header(header: Any) -> None:
    with pytest.raises(ValueError, match="header"):
        check_headers([header])


@pytest.mark.parametrize("headers", [None, (("X", "a"),), {"X": "a"}, iter([("X", "a")]), "X"])
def test_headers_are_a_list(headers: Any) -> None:
    with pytest.raises(ValueError, match="not a list"):
        check_headers(headers)


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "KEEP-ALIVE", "Transfer-Encoding", "te", "Trailer", "Upgrade"),
        *("Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection"),
    ],
)
def test_hop_by_hop(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        check_headers([(name, "x")])


def test_encode_head() -> None:
    headers = [("A", "1"), ("B", "2"), ("A", "3")]
    expected = b"HTTP/1.1 201 Created\r\nA: 1\r\nB: 2\r\nA: 3\r\nDate: now\r\n\r\n"
    for _ in range(2):
        assert encode_head("201 Created", headers, b"Date: now\r\n") == expected
    assert encode_head("204 x", [], b"") == b"HTTP/1.1 204 x\r\n\r\n"


def test_error_response() -> None:
    head, _, body = error_response(431, "too many fields", b"Date: now\r\n").partition(b"\r\n\r\n")
    assert body == b"431 Request Header Fields Too Large: too many fields\n"
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 431 Request Header Fields Too Large",
        b"Content-Type: text/plain; charset=us-ascii",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
        b"Date: now",
    ]
    assert error_response(505).endswith(b"\r\n\r\n505 HTTP Version Not Supported\n")


def test_no_chunk_for_no_data() -> None:
    assert (chunk(b""), chunk(b"x" * 16)) == (b"", b"10\r\n" + b"x" * 16 + b"\r\n")
