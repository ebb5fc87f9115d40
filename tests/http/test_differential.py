"""Our grammar beside llhttp and h11: every disagreement has a decision written here."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http import test_grammar, test_smuggling
from tests.http.exchange import exchange
from tests.http.peers import Message, h11_server, llhttp

PEERS = {"llhttp": llhttp, "h11": h11_server}

BOTH = ("llhttp", "h11")

# Our reason for a refusal → which peers answer such a request, and why we do not.
STRICTER: dict[str, tuple[tuple[str, ...], str]] = {
    "CONNECT is not implemented": (
        BOTH,
        "we are an origin server, not a tunnel (RFC 9110, 9.3.6)",
    ),
    "Connection is not a list of tokens": (
        BOTH,
        "RFC 9110, 7.6.1; peers look for the words they know",
    ),
    "Content-Length and Transfer-Encoding exclude each other": (
        ("h11",),
        "RFC 9112, 6.1 lets us refuse; h11 lets Transfer-Encoding win",
    ),
    "Content-Length is not a number": (
        ("h11",),
        "RFC 9112, 6.3 lets us refuse a list, even of equal numbers",
    ),
    "HTTP/1.0 has no Transfer-Encoding": (
        BOTH,
        "RFC 9112, 6.1: its framing is to be taken as faulty",
    ),
    "HTTP/1.1 needs a Host field": (
        ("llhttp",),
        "RFC 9112, 3.2: a server MUST refuse; llhttp leaves it to its user",
    ),
    "Host is not a host and a port": (
        BOTH,
        "RFC 9112, 3.2: a server MUST refuse; peers leave it to their users",
    ),
    "Host, Content-Length or Transfer-Encoding is there twice": (
        BOTH,
        "RFC 9112, 3.2 and 6.3; h11 takes equal Content-Lengths, llhttp several Hosts",
    ),
    "a chunk extension is too long": (BOTH, "our limit"),
    "a chunk size is malformed": (
        BOTH,
        "RFC 9112, 7.1.1; h11 takes any text as extension, and blanks after the size; llhttp takes"
        " an empty extension value; both take more than 16 digits",
    ),
    "a field is not allowed as a trailer": (
        BOTH,
        "RFC 9110, 6.5.1; peers leave it to their users",
    ),
    "a field line is malformed": (
        ("h11",),
        "RFC 9112, 5.2 lets us refuse folded lines; h11 unfolds them",
    ),
    "a trailer field is malformed": (
        ("h11",),
        "h11 unfolds lines, and ends them with a bare LF",
    ),
    "no expectation but 100-continue is met": (
        BOTH,
        "RFC 9110, 10.1.1: 417; peers leave it to their users",
    ),
    "no method has a name that long": (
        ("h11",),
        "RFC 9112, 3: 501 for a method longer than any we serve",
    ),
    "no transfer coding but chunked is implemented": (
        BOTH,
        "RFC 9112, 6.1: 501; llhttp takes a list that ends with chunked, h11 unfolds the value",
    ),
    "only HTTP/1.1 and HTTP/1.0 are spoken here": (
        BOTH,
        "RFC 9110, 15.6.6: 505; h11 takes every HTTP/x.y, llhttp 0.9 and 2.0",
    ),
    "the request does not begin with a method": (
        ("llhttp",),
        "RFC 9112, 2.2 speaks of one empty line; llhttp skips any number of CR and LF",
    ),
    "the request line is malformed": (
        ("llhttp",),
        "RFC 9112, 3: one space; llhttp takes more before the target, and HTTP/0.9",
    ),
    "the request target is malformed": (
        BOTH,
        "RFC 9112, 3.2: our grammar looks into the target; peers take most visible ASCII",
    ),
    "there is a control character in the head": (
        BOTH,
        "RFC 9112, 2.2 and RFC 9110, 5.5; h11 ends lines with a bare LF and takes controls in"
        " values, llhttp takes a bare LF after the line of HTTP/0.9",
    ),
}

# A peer's text when it stops → why we answer what it refuses.
MORE_LIBERAL = {
    "llhttp": {
        "Invalid method encountered": "it knows a list of methods; RFC 9110, 9.1: any token",
        "Expected space after method": "the same: a method it knows with one character more",
        "upgrade": "it waits for a switch of protocols; we never make one, so we read on",
    },
    "h11": {
        "closes after HTTP/1.0": "RFC 9112, C.2.2: we know keep-alive on HTTP/1.0",
        "no request line received": "RFC 9112, 2.2: one empty line before a request SHOULD go",
    },
}


def fields_of(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names in lower case, and the one value that h11 writes in its own way."""
    pairs = [(name.lower(), value) for name, value in fields]
    return [(n, v.lower() if n == "transfer-encoding" else v) for n, v in pairs]


def compare(data: bytes, peer: str) -> None:
    """Check that we and a peer read the same, or that there is a decision why not."""
    ours, theirs = exchange([data]), PEERS[peer](data)
    for head, body, message in zip(ours.heads, ours.bodies, theirs.messages, strict=False):
        mine = Message(head.method, head.target, fields_of(head.fields), body)
        message.fields = fields_of(message.fields)
        assert mine == message
    if len(ours.heads) > len(theirs.messages):
        assert theirs.stopped in MORE_LIBERAL[peer]
    if len(ours.heads) < len(theirs.messages):
        peers, _ = STRICTER.get(ours.reason, ((), ""))
        assert peer in peers, ours.reason or ("we wait" if ours.waiting else "we closed")


SPECIAL = b"\r\n \t\0:,;=\x0b\x0c\x1b\x7f\x80\x85\xa0\xff_-+.01aAfFgx\"'\\#%?*@[]/"
TOKENS = [
    *(bytes([code]) for code in SPECIAL),
    b"\r\n",
    b"\r\n ",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"http://b",
    b"chunked",
    b"close",
    b"Host: b\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\n",
    b"Upgrade: x\r\n",
    b"Expect: 100-continue\r\n",
]
CORPUS = [
    *(data for _, data in test_smuggling.REFUSED.values()),
    *(data for *_, data in test_smuggling.ANSWERED.values()),
    *test_grammar.ACCEPTED.values(),
]


def mutate(chance: random.Random) -> bytes:
    """Return one of the corpus, or two after each other, with one to three small changes."""
    data = bytearray(b"".join(chance.choices(CORPUS, k=chance.choice((1, 1, 1, 2)))))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(data) + 1)
        lines = data.split(b"\r\n")
        one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        match chance.randrange(6):
            case 0:
                data[at:at] = chance.choice(TOKENS)
            case 1:
                data[at : at + 1] = chance.choice(TOKENS)
            case 2:
                data[at : at + 1] = chance.randbytes(1)
            case 3:
                del data[at : at + chance.choice((1, 1, 2, 8))]
            case 4:
                lines[one], lines[other] = lines[other], lines[one]
                data = bytearray(b"\r\n".join(lines))
            case _:
                lines.insert(one, lines[other])
                data = bytearray(b"\r\n".join(lines))
    return bytes(data)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("seed", range(8))
def test_mutated_requests(seed: int, peer: str) -> None:
    chance = random.Random(seed)
    for _ in range(5000):
        data = mutate(chance)
        try:
            compare(data, peer)
        except AssertionError as error:
            error.add_note(repr(data))
            raise


METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"PUT", b"get", b"M-SEARCH"])
TARGETS = st.sampled_from(
    [b"/", b"/a/b?c=d", b"*", b"http://b:80/x?y", b"//x", b"/%41", b"/%", b"a:1"]
)
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 4 + [b"HTTP/1.0"] * 2 + [b"HTTP/1.2", b"HTTP/1", b""])
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\r\n "])
COLONS = st.sampled_from([b": ", b": ", b":", b":\t", b" : ", b""])
NAMES = st.sampled_from(
    [
        *(b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect"),
        *(b"X-Y", b"x_y", b"content_length", b"Cookie", b"TE", b"", b"X Y", b"X\x80"),
    ]
)
VALUES = st.sampled_from(
    [
        *(b"a", b"a:80", b"[::1]", b"0", b"3", b"+3", b"3,3", b"3 ", b"\t3", b"03", b"0x3", b""),
        *(b"chunked", b"Chunked", b"gzip, chunked", b"identity", b"close", b"keep-alive, upgrade"),
        *(b"100-continue", b"\xff", b"a\x00b", b"a\tb", b"a\x7f"),
    ]
)
BODIES = st.sampled_from(
    [
        *(b"", b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n"),
        *(
            b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
            b"03\r\nabc\r\n00\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
        ),
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    line = b" ".join([draw(METHODS), draw(TARGETS), draw(VERSIONS)])
    parts = [line, draw(ENDS), draw(st.sampled_from([b"Host: a\r\n", b"Host: a\r\n", b""]))]
    for _ in range(draw(st.integers(0, 4))):
        parts += [draw(NAMES), draw(COLONS), draw(VALUES), draw(ENDS)]
    return b"".join([*parts, draw(ENDS), draw(BODIES)])


@pytest.mark.parametrize("peer", PEERS)
@settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(requests(), min_size=1, max_size=3).map(b"".join))
def test_generated_requests(peer: str, data: bytes) -> None:
    compare(data, peer)


def test_what_both_refuse_we_refuse() -> None:
    """All in the tables that both peers refuse at once is refused by us."""
    for data in CORPUS:
        if all(peer(data).stopped and not peer(data).messages for peer in PEERS.values()):
            ours = exchange([data])
            assert ours.refused, data
            assert not ours.heads
