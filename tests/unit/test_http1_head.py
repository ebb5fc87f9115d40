"""Request heads: what a Head says, what it remembers, what it costs."""

from typing import SupportsIndex

import pytest

from prefork_sd.http1 import BadRequest, Head, HeadReader, Heads, Limits
from prefork_sd.http1.head import parse_head
from prefork_sd.http1.words import Memo


def read(*fields: str, line: str = "GET / HTTP/1.1") -> Head:
    data = "\r\n".join([line, "Host: a", *fields, "", ""]).encode("latin-1")
    head = HeadReader(Limits()).read(bytearray(data))
    assert head is not None
    return head


def test_a_head_says_everything() -> None:
    data = b"POST /a%20b?c=d HTTP/1.1\r\nhost: Ex:8\r\nX-Y:  z \r\nContent-Length: 7\r\n\r\n"
    buffer = bytearray(data + b"rest")
    head = HeadReader(Limits()).read(buffer)
    assert head == Head(
        method="POST",
        target="/a%20b?c=d",
        path="/a%20b",
        query="c=d",
        version="HTTP/1.1",
        host="Ex:8",
        environ={"HTTP_HOST": "Ex:8", "HTTP_X_Y": "z", "CONTENT_LENGTH": "7"},
        length=7,
        chunked=False,
        keep_alive=True,
        expect_continue=False,
        upgrade=False,
        raw=data,
    )
    assert head.line == "POST /a%20b?c=d HTTP/1.1"
    assert head.fields == [("host", "Ex:8"), ("X-Y", "z"), ("Content-Length", "7")]
    assert buffer == b"rest"


def test_its_repr_keeps_secrets() -> None:
    assert "hunter2" not in repr(read("Cookie: hunter2"))


def test_content_fields_have_their_cgi_names() -> None:
    environ = read("Content-Type: text/plain", "Content-Length: 0", "Content-Language: en").environ
    assert environ == {
        "HTTP_HOST": "a",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "0",
        "HTTP_CONTENT_LANGUAGE": "en",
    }


def test_repeated_fields_are_joined_in_order() -> None:
    head = read("X: 1", "Cookie: a=b", "x: 2", "Y:", "cookie: c=d", "X:", "y: 3")
    assert head.environ == {
        "HTTP_HOST": "a",
        "HTTP_X": "1,2,",
        "HTTP_COOKIE": "a=b; c=d",
        "HTTP_Y": ",3",
    }


def test_aliases_and_proxy_are_dropped_but_told() -> None:
    head = read("X_Y: 1", "X-Y: 2", "Content_Length: 3", "Proxy: evil", "_: x", "X-Y_Z: 4")
    assert head.environ == {"HTTP_HOST": "a", "HTTP_X_Y": "2"}
    assert ("Content_Length", "3") in head.fields
    assert len(head.fields) == 7


def test_transfer_encoding_is_left_out_of_the_environ() -> None:
    head = read("Transfer-Encoding: chunked", "Connection: x")
    assert head.chunked
    assert head.environ == {"HTTP_HOST": "a", "HTTP_CONNECTION": "x"}


def test_the_authority_of_an_absolute_target_wins() -> None:
    head = read(line="GET http://b:80/x HTTP/1.1")
    assert (head.host, head.environ["HTTP_HOST"], head.path) == ("b:80", "b:80", "/x")


def test_http_1_0_needs_no_host() -> None:
    head = HeadReader(Limits()).read(bytearray(b"GET / HTTP/1.0\r\n\r\n"))
    assert head is not None
    assert (head.host, head.environ, head.fields) == ("", {}, [])


def test_values_are_latin_1() -> None:
    assert read("X: \xe4\xf6").environ["HTTP_X"] == "\xe4\xf6"


def test_a_head_that_came_before_is_the_same_one() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    heads = Heads(Limits())
    once, twice = heads.take(data), heads.take(data)
    assert once is not None
    assert twice is not None
    assert once == twice == HeadReader(Limits()).read(bytearray(data))
    assert not once.repeats
    assert not twice.repeats
    assert heads.take(bytes(bytearray(data))) is twice
    assert twice.repeats


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"y" * 8192),
    ],
)
def test_what_is_not_just_one_head_is_left_to_the_reader(data: bytes) -> None:
    assert Heads(Limits()).take(data) is None


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_head_with_more_behind_it_is_known(kind: type[bytes | bytearray]) -> None:
    data = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
    heads = Heads(Limits())
    known = [heads.take(data) for _ in range(3)][-1]
    assert heads.first(kind(data + b"\r\n\r\n\r\n\r\nx")) is known
    assert heads.first(kind(data)) is known
    for other in (b"", b"\r\n" + data, b"\r\n\r\n" + data, data[:-1], data.replace(b":", b" :")):
        assert heads.first(kind(other)) is None


def test_a_long_head_with_more_behind_it_is_left_to_the_reader() -> None:
    limits = Limits(line=100, field=100)
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
    size = len(data % b"")
    assert Heads(limits).first(data % (b"y" * (100 - size)) + b"more") is not None
    assert Heads(limits).first(data % (b"y" * (101 - size)) + b"more") is None


def test_remembered_heads_are_bounded() -> None:
    heads = Heads(Limits())
    data = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
    first = [heads.take(data % 0) for _ in range(3)][-1]
    for number in range(1, 600):
        for _ in range(2):
            heads.take(data % number)
    assert heads.take(data % 0) == first
    assert heads.take(data % 0) is not first


def test_heads_that_never_come_back_do_not_push_out_those_that_do() -> None:
    heads = Heads(Limits())
    data = b"GET /%d HTTP/1.1\r\nHost: a\r\nX: %d\r\n\r\n"
    known = [heads.take(data % (0, 0)) for _ in range(3)][-1]
    for number in range(1, 5000):
        heads.take(data % (number, number // 3))
    assert heads.take(data % (0, 0)) is known


LINES = [
    b"GET / HTTP/1.1",
    b"GET / HTTP/1.0",
    b"POST /a%20b?c=%d HTTP/1.1",
    b"POST /a%20b? HTTP/1.0",
    b"GET http://b:80/x HTTP/1.1",
    b"GET http://b:80/x HTTP/1.0",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT /a HTTP/1.1",
    b"CONNECT a:80 HTTP/1.1",
    b"GET /a%2 HTTP/1.1",
    b"GET /\xe4 HTTP/1.1",
    b"GET / HTTP/2.1",
    b"GET / HTTP/1.1 ",
    b"GET / HTTP/1.1\r",
    b"1",
    b"",
]
FIELDS: list[list[bytes]] = [
    [],
    [b""],
    [b"Host: a"],
    [b"host:a", b"X: y", b"x: z", b"Cookie: a", b"Cookie: b", b"Proxy: c", b"D_E: f"],
    [b"Host: a", b"", b"X: y"],
    [b"Host: a", b"X: y", b"GET / HTTP/1.1", b"Host: a"],
    [b"Host: a", b"Host: a"],
    [b"Host: a", b"Connection: close"],
    [b"Connection: keep-alive, Upgrade", b"Host: a", b"Upgrade: websocket"],
    [b"Host: a", b"Connection: upgrade,close"],
    [b"Host: a", b"Connection: a b"],
    [b"Host: a", b"Content-Length: 0", b"Expect: 100-continue"],
    [b"Host: a", b"Content-Length: 10", b"Expect: 100-continue"],
    [b"Host: a", b"Expect: 200-ok"],
    [b"Host: a", b"Content-Length: 1,1"],
    [b"Host: a", b"Content-Length: 1", b"Content-Length: 1"],
    [b"Host: a", b"Transfer-Encoding: chunked", b"Expect: 100-continue"],
    [b"Transfer-Encoding: chunked"],
    [b"Host: a", b"Transfer-Encoding: chunked", b"Content-Length: 1"],
    [b"Host: a", b"Transfer-Encoding: gzip"],
    [b"Host: a", b" folded"],
    [b"Host: a", b"X: \0"],
    [b"Host: a", *[b"X: %d" % number for number in range(7)]],
    [b"Host: a", *[b"X: %d" % number for number in range(8)]],
    [b"Host: a", b"X: " + b"y" * 5000],
    [b"1", b"Host: a"],
]


def parsed(data: bytes, limits: Limits) -> Head | None:
    try:
        return parse_head(data, limits)
    except BadRequest:
        return None


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_remembered_is_what_parsing_says(times: int) -> None:
    """Of the same fields with other request lines, and of each head the next times it comes."""
    limits = Limits(fields=8)
    heads = Heads(limits)
    for _ in range(2):
        for fields in FIELDS:
            for line in LINES:
                data = b"\r\n".join([line, *fields, b"", b""])
                expected = parsed(data, limits)
                for _ in range(times):
                    head = heads.take(data)
                    assert head == expected, data
                    if head is not None and expected is not None:
                        assert [*head.environ.items()] == [*expected.environ.items()]


def test_the_fields_of_others_are_not_changed_by_an_absolute_target() -> None:
    heads = Heads(Limits())
    data = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
    hosts = [
        (head.host, head.environ["HTTP_HOST"])
        for target in (b"/", b"http://b/", b"/x", b"http://c/", b"/")
        if (head := heads.take(data % target))
    ]
    assert hosts == [("a", "a"), ("b", "b"), ("a", "a"), ("c", "c"), ("a", "a")]


def test_heads_in_pieces_after_an_empty_line() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    reader = HeadReader(Limits())
    buffer = bytearray(data)
    first = reader.read(buffer)
    for _ in range(3):
        buffer += b"\r\n"
        for byte in data[:-1]:
            buffer.append(byte)
            assert reader.read(buffer) is None
        buffer += data[-1:]
        assert reader.read(buffer) == first


def test_a_field_line_is_judged_the_same_when_it_was_seen_before() -> None:
    for _ in range(2):
        assert read("X_Y: 1").environ == {"HTTP_HOST": "a"}
        with pytest.raises(BadRequest) as caught:
            read("Content-Length: 1,1")
        assert caught.value.status == 400


def test_a_refusal_never_quotes_the_client() -> None:
    for data in (b"GET /secret HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost: <secret>\r\n\r\n"):
        with pytest.raises(BadRequest) as caught:
            HeadReader(Limits()).read(bytearray(data))
        assert "secret" not in str(caught.value)


class Counting(bytearray):
    """A buffer that counts the bytes which are searched."""

    looked = 0

    def find(
        self,
        sub: object,
        start: SupportsIndex | None = 0,
        end: SupportsIndex | None = None,
        /,
    ) -> int:
        self.looked += len(self) - int(start or 0)
        return super().find(sub, start, end)  # type: ignore[arg-type]


def test_dripped_heads_are_searched_once() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %b\r\n" % (b"y" * 500) * 60 + b"\r\n"
    buffer = Counting()
    reader = HeadReader(Limits())
    for byte in data[:-1]:
        buffer.append(byte)
        assert reader.read(buffer) is None
    buffer += data[-1:]
    assert reader.read(buffer) is not None
    assert buffer.looked < 10 * len(data)


def test_a_memo_is_bounded() -> None:
    calls: list[str] = []

    def measure(key: str) -> int:
        calls.append(key)
        return len(key)

    memo = Memo(measure, size=3, small=lambda key: len(key) < 4)
    for key in ("a", "bb", "a", "long one", "long one"):
        assert memo[key] == len(key)
    assert calls == ["a", "bb", "long one", "long one"]
    for number in range(100):
        assert memo[str(number)] <= 2
        assert len(memo) <= 3


def test_what_raises_is_not_remembered() -> None:
    memo: Memo[str, int] = Memo(int)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            memo["x"]
    assert not memo
