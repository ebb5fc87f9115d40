"""The grammar by example: what a request means, where it is refused, however it is cut."""

import pytest

from prefork_sd.http1 import Limits
from tests.http.exchange import cut_everywhere, exchange


def get(target: str, *fields: str, version: str = "1.1") -> bytes:
    return f"GET {target} HTTP/{version}\r\n".encode() + b"".join(
        f"{field}\r\n".encode("latin-1") for field in ("Host: a", *fields, "")
    )


ACCEPTED: dict[str, bytes] = {
    "browser": get(
        "/shop/cart?item=3&item=4",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
        'Cookie: a=b; c="d"',
        "Connection: keep-alive",
    ),
    "bare": get("/"),
    "no fields": b"GET / HTTP/1.0\r\n\r\n",
    "every kind of method character": get("/").replace(b"GET", b"!#$%&'*+-.^_`|~09azAZ"),
    "method of 32": get("/").replace(b"GET", b"M" * 32),
    "empty value": get("/", "X:"),
    "value of blanks": get("/", "X: \t "),
    "value of one character": get("/", "X:y"),
    "value with blanks inside": get("/", "X: a \t b"),
    "value with latin-1": get("/", "X: \xe4\xff\x80"),
    "value with everything visible": get("/", "X: " + "".join(map(chr, range(0x21, 0x7F)))),
    "name with everything allowed": get("/", "!#$%&'*+-.^_`|~09azAZ: x"),
    "empty segments": get("//a//b/"),
    "query with a question mark": get("/?a?b"),
    "empty query": get("/?"),
    "escapes": get("/%2e%2E/%00?%zz%"),
    "raw characters of browsers": get("/[]^`{|}?[\\]^`{|}'"),
    "absolute": get("http://b.example:8080/x?y"),
    "absolute https": get("HTTPS://b/x"),
    "absolute with an empty path": get("http://b"),
    "absolute with a query alone": get("http://b?x"),
    "absolute of IPv6": get("http://[::1]:80/"),
    "asterisk": get("*").replace(b"GET", b"OPTIONS"),
    "keep-alive on 1.0": get("/", "Connection: keep-alive", version="1.0"),
    "body": get("/", "Content-Length: 3") + b"abc",
    "chunked": get("/", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    "chunked with all there is": get("/", "Transfer-Encoding: chunked")
    + b'1;a;b=c;d="e \\" f"\r\na\r\n002\r\nbc\r\n0;x\r\nX-Sum: y\r\nX-Other:\r\n\r\n',
    "pipelined": get("/1") + get("/2", "Content-Length: 1") + b"x" + get("/3"),
    "the same twice": get("/1") * 3,
    "expect": get("/", "Expect: 100-Continue", "Content-Length: 1") + b"x",
    "connection with empty elements": get("/", "Connection: , keep-alive,, x"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    seen = cut_everywhere(ACCEPTED[name])
    assert not seen.refused, seen.reason
    assert not seen.waiting
    assert len(seen.heads) == ACCEPTED[name].count(b"HTTP/1.")


HOSTS = [
    *("a", "A.example", "a.example:80", "a:", "1.2.3.4", "1.2.3.4:5", "999.1.1.1", "a_b", "%41"),
    *("xn--bcher-kva.example", "a,b", "[::]", "[::1]:8000", "[1:2:3:4:5:6:7:8]", "[1::8]"),
    *("[1:2:3:4:5:6:7::]", "[::2:3:4:5:6:7:8]", "[::ffff:1.2.3.4]", "[1:2:3:4:5:6:1.2.3.4]"),
    *("[1::3:4:5:6:1.2.3.4]", "[1:2:3:4:5::8]", "[v1.fe80:a]"),
]
NO_HOSTS = [
    *("", ":", ":80", "a:b", "a:123456", "a b", "a/b", "a@b", "a?b", "a#b", "[", "[]", "[:]"),
    *("[1]", "[1:2:3:4:5:6:7]", "[1:2:3:4:5:6:7:8:9]", "[1::2::3]", "[12345::]", "[::g]"),
    *("[::1.2.3]", "[::1.2.3.256]", "[::1]a", "a[::1]", "::1", "[1:2:3:4:5:6:7:8::]", "[v.a]"),
    *("a%", "a%:80", "a%4:80"),
    *("%", "%4", "%zz", "\xe4", '"a"', "a\\b", "<a>", "a|b", "a{b", "a^b", "a`b", "[::1%25lo]"),
]


@pytest.mark.parametrize("host", HOSTS)
def test_host(host: str) -> None:
    seen = cut_everywhere(f"GET / HTTP/1.1\r\nHost:  {host} \r\n\r\n".encode())
    assert [head.host for head in seen.heads] == [host]
    absolute = cut_everywhere(f"GET http://{host}/ HTTP/1.1\r\nHost: other\r\n\r\n".encode())
    assert [head.environ for head in absolute.heads] == [{"HTTP_HOST": host}]


@pytest.mark.parametrize("host", NO_HOSTS)
def test_no_host(host: str) -> None:
    data = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
    assert cut_everywhere(data).refused == 400


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a/b", "/a/b", ""),
        ("/a?", "/a", ""),
        ("/a?b?c=d", "/a", "b?c=d"),
        ("//evil/x", "//evil/x", ""),
        ("/%2F%c3%a4", "/%2F%c3%a4", ""),
        ("/a;p=1,2:@!$&'()*+", "/a;p=1,2:@!$&'()*+", ""),
        ("http://b/x?y", "/x", "y"),
        ("http://b", "/", ""),
        ("http://b?y", "/", "y"),
    ],
)
def test_target(target: str, path: str, query: str) -> None:
    head = cut_everywhere(get(target)).heads[0]
    assert (head.target, head.path, head.query) == (target, path, query)
    assert head.line == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize("character", [chr(code) for code in range(256)])
def test_every_character_in_a_path_and_a_query(character: str) -> None:
    in_path, in_query = (
        cut_everywhere(f"GET {where}{character} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1"))
        for where in ("/x", "/x?")
    )
    visible = "!" <= character <= "~"
    assert bool(in_query.heads) == (visible and character not in '"#<>')
    assert bool(in_path.heads) == (visible and character not in '"#<>\\%')


@pytest.mark.parametrize("code", range(256))
def test_every_byte_in_a_name_and_a_value(code: int) -> None:
    in_name = cut_everywhere(b"GET / HTTP/1.1\r\nHost: a\r\nX%b: v\r\n\r\n" % bytes([code]))
    in_value = cut_everywhere(b"GET / HTTP/1.1\r\nHost: a\r\nX: v%bv\r\n\r\n" % bytes([code]))
    token = chr(code).isascii() and (chr(code).isalnum() or chr(code) in "!#$%&'*+-.^_`|~")
    assert bool(in_name.heads) == (token or chr(code) == ":")
    assert bool(in_value.heads) == (code == 9 or (code >= 0x20 and code != 0x7F))


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        ("1.1", None, True),
        ("1.1", "", True),
        ("1.1", "close", False),
        ("1.1", "x, CLOSE", False),
        ("1.1", "keep-alive", True),
        ("1.1", "keep-alive,close", False),
        ("1.1", "closed", True),
        ("1.0", None, False),
        ("1.0", "keep-alive", True),
        ("1.0", "Keep-Alive , x", True),
        ("1.0", "keep-alive, close", False),
        ("1.0", "x", False),
    ],
)
def test_keep_alive(version: str, connection: str | None, keep_alive: bool) -> None:
    fields = [] if connection is None else [f"Connection: {connection}"]
    head = cut_everywhere(get("/", *fields, version=version)).heads[0]
    assert head.keep_alive is keep_alive
    assert head.version == f"HTTP/{version}"


def test_connection_may_come_in_several_fields() -> None:
    head = cut_everywhere(get("/", "Connection: x", "Connection: close")).heads[0]
    assert not head.keep_alive
    assert head.environ["HTTP_CONNECTION"] == "x,close"


@pytest.mark.parametrize(
    ("fields", "upgrade"),
    [
        (["Connection: Upgrade", "Upgrade: websocket"], True),
        (["Connection: keep-alive, upgrade", "Upgrade: h2c"], True),
        (["Upgrade: websocket"], False),
        (["Connection: upgrade"], False),
    ],
)
def test_upgrade(fields: list[str], upgrade: bool) -> None:
    assert cut_everywhere(get("/", *fields)).heads[0].upgrade is upgrade
    assert not cut_everywhere(get("/", *fields, version="1.0")).heads[0].upgrade


def test_expect_continue_needs_a_body_and_1_1() -> None:
    expect = "Expect: 100-continue"
    length, chunked = "Content-Length: 1", "Transfer-Encoding: chunked"
    assert cut_everywhere(get("/", expect, length) + b"x").heads[0].expect_continue
    assert cut_everywhere(get("/", expect, chunked) + b"0\r\n\r\n").heads[0].expect_continue
    assert not cut_everywhere(get("/", expect)).heads[0].expect_continue
    old = cut_everywhere(get("/", expect, length, version="1.0") + b"x")
    assert not old.heads[0].expect_continue


SMALL = Limits(line=40, fields=3, field=30, head=80, body=10, chunk_extension=8, trailers=24)


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (0, get("/" + "x" * (40 - len("GET / HTTP/1.1")))),
        (414, get("/" + "x" * (41 - len("GET / HTTP/1.1")))),
        (414, get("/" + "x" * 200)),
        (414, b"GET /" + b"x" * 36),
        (414, b"M" * 32 + b" /" + b"x" * 40),
        (501, b"M" * 33),
        (501, b"M" * 33 + b" / HTTP/1.1\r\n\r\n"),
        (0, get("/", "X: " + "y" * 27)),
        (431, get("/", "X: " + "y" * 28)),
        (431, get("/", "X: " + "y" * 28)[:-4]),
        (431, get("/", "y" * 31)),
        (400, get("/", "X: " + "\x01" + "y" * 28)),
        (431, get("/", "X: " + "y" * 28 + "\x01")),
        (0, get("/", "a:", "b:")),
        (431, get("/", "a:", "b:", "c:")),
        (431, get("/", "a:", "b:", "c")[:-4]),
        (431, get("/", "a:", "b:", "c d:")),
        (400, get("/", "a:", "b c:", "d:")),
        (0, get("/", "X: " + "y" * 27, "Y: " + "y" * 16)),
        (431, get("/", "X: " + "y" * 27, "Y: " + "y" * 17)),
        (431, get("/", "X: " + "y" * 27, "Y: " + "y" * 19)[:-4]),
        (505, get("/", "a:", "b:", "c:", version="1.9")),
        (0, get("/", "Content-Length: 10") + b"x" * 10),
        (413, get("/", "Content-Length: 11") + b"x" * 11),
        (0, get("/", "Transfer-Encoding: chunked") + b"9\r\n123456789\r\n1\r\n0\r\n0\r\n\r\n"),
        (413, get("/", "Transfer-Encoding: chunked") + b"9\r\n123456789\r\n2\r\n01\r\n0\r\n\r\n"),
        (413, get("/", "Transfer-Encoding: chunked") + b"b\r\n"),
        (0, get("/", "Transfer-Encoding: chunked") + b"0;2345678\r\n\r\n"),
        (400, get("/", "Transfer-Encoding: chunked") + b"0;23456789\r\n\r\n"),
        (0, get("/", "Transfer-Encoding: chunked") + b"0\r\nX: 45678901234567890\r\n\r\n"),
        (431, get("/", "Transfer-Encoding: chunked") + b"0\r\nX: 4567890123456789012\r\n\r\n"),
        (431, get("/", "Transfer-Encoding: chunked") + b"0\r\nX: " + b"y" * 20),
        (431, get("/", "Transfer-Encoding: chunked") + b"0\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n"),
    ],
)
def test_limits(status: int, data: bytes) -> None:
    seen = cut_everywhere(data, SMALL)
    assert seen.refused == status, seen.reason
    assert len(seen.heads) == (status == 0)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16",
        b"\x16\x03\x01",
        b"\0",
        b"\n",
        b"\r\r",
        b"\r\n\r",
        b" ",
        b"GET\t",
        b"{",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"GET / HTTP/1.1\n",
        b"GET /\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET / HTTP/1.1\r\n: \r\n",
        b"GET / HTTP/1.1\r\nHost: a\0",
        b"GET / HTTP/1.1\r\nHost: a b\r\n",
        b"M" * 33,
    ],
)
def test_a_wrong_start_is_refused_at_once(data: bytes) -> None:
    assert cut_everywhere(data).refused in (400, 501, 505)


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_incomplete_request_waits(name: str) -> None:
    data = ACCEPTED[name]
    whole = exchange([data])
    for at in range(1, len(data)):
        seen = exchange([data[:at]])
        assert not seen.refused
        assert seen.waiting or seen.heads == whole.heads[: len(seen.heads)]
