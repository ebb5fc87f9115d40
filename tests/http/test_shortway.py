"""The short way answers as the way for everything does, whatever the app and the client do."""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar

import pytest

from prefork_sd.hooks import Hooks
from prefork_sd.workers import together
from tests.http.apps import MIB, TEXT, Closing
from tests.http.conftest import Serve
from tests.http.serving import App, Client, Environ, Reply, Served, StartResponse, Wire

SEEN: ContextVar[str] = ContextVar("seen", default="nobody")

Case = Callable[[Environ, StartResponse, Wire], Iterable[bytes]]


def sized(
    start_response: StartResponse, size: int, status: str = "200 OK"
) -> Callable[..., object]:
    return start_response(status, [*TEXT, ("Content-Length", str(size))])


def one_piece(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)
    return [b"body"]


def a_tuple(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)
    return (b"body",)


def two_pieces(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 8)
    return [b"body", b"body"]


def no_length(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"body"]


def nothing(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 0)
    return []


def an_empty_piece(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 0)
    return [b""]


def too_short(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 5)
    return [b"body"]


def too_long(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 3)
    return [b"body"]


def text(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)
    return ["body"]  # type: ignore[list-item]


def no_content(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


def not_modified(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    start_response("304 Not Modified", [("Content-Length", "4")])
    return []


def unavailable(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4, "503 Service Unavailable")
    return [b"body"]


def missing(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4, "404 Not Found")
    return [b"body"]


def dated(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    start_response("200 OK", [("Date", "today"), ("Server", "mine"), ("Content-Length", "4")])
    return [b"body"]


def big(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, MIB)
    return [bytes(MIB)]


def a_generator(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterator[bytes]:
    sized(start_response, 4)
    yield b"body"
    wire.say("ended")


def in_pieces(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterator[bytes]:
    sized(start_response, 8)
    yield b"body"
    yield b""
    yield b"body"


def an_empty_one_first(
    environ: Environ, start_response: StartResponse, wire: Wire
) -> Iterator[bytes]:
    sized(start_response, 4)
    yield b""
    yield b"body"


def more_than_it_said(
    environ: Environ, start_response: StartResponse, wire: Wire
) -> Iterator[bytes]:
    sized(start_response, 4)
    yield b"body"
    yield b"more"


def none_at_all(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterator[bytes]:
    sized(start_response, 0)
    yield from ()


def closes(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)
    return Closing(wire, b"body")


def closes_in_pieces(
    environ: Environ, start_response: StartResponse, wire: Wire
) -> Iterable[bytes]:
    sized(start_response, 8)
    return Closing(wire, b"body", b"body")


def fails_after_all(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)
    return Closing(wire, ValueError("on purpose"))


def fails(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)
    raise ValueError("on purpose")


def leaves(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    raise SystemExit(1)


def says_nothing(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    return [b"body"]


def is_none(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)
    return None  # type: ignore[return-value]


def cannot_close(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    class Bad(Closing):
        def close(self) -> None:
            super().close()
            raise ValueError("on purpose")

    sized(start_response, 4)
    return Bad(wire, b"body")


def writes(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    write = sized(start_response, 8)
    write(b"body")
    return [b"body"]


def writes_all(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)(b"body")
    return []


def starts_late(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterator[bytes]:
    sized(start_response, 4)
    yield b"body"


def starts_twice(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)
    sized(start_response, 4)
    return [b"body"]


def changes_its_mind(
    environ: Environ, start_response: StartResponse, wire: Wire
) -> Iterable[bytes]:
    sized(start_response, 4)
    try:
        raise ValueError("on purpose")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
        start_response("500 Oops", [("Content-Length", "5")], info)
    return [b"sorry"]


def bad_header(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "4"), ("X-Bad", "a\r\nb")])
    return [b"body"]


def interim(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    start_response("100 Continue", [("Content-Length", "4")])
    return [b"body"]


def a_file(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    sized(start_response, 4)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"body"))
    return wrapped


def hints(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
    sized(start_response, 4)
    return [b"body"]


def hints_in_between(
    environ: Environ, start_response: StartResponse, wire: Wire
) -> Iterator[bytes]:
    sized(start_response, 8)
    yield b"body"
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])  # too late
    yield b"body"


def remembers(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    """What a request before has left in the context is not there."""
    seen = SEEN.get().encode()
    SEEN.set("somebody")
    sized(start_response, len(seen))
    return [seen]


def tells(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    """Everything that is in environ, but for what differs from one request to the next."""
    own = {"REMOTE_PORT", "PREFORK_SD_REQUEST_ID", "wsgi.early_hints", "wsgi.input", "wsgi.errors"}
    environ["SERVER_PORT"] = "80"
    lines = [f"{key}={environ[key]!r}" for key in sorted(environ) if key not in own]
    assert all(environ[key] is not None for key in own)
    assert environ["wsgi.input"].read() == b""
    body = "\n".join(lines).encode()
    sized(start_response, len(body))
    return [body]


def spoils(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    """What it does to its environ is nobody else's."""
    body = environ["PATH_INFO"].encode()
    environ["wsgi.input"].close()
    environ.clear()
    sized(start_response, len(body))
    return [body]


def spoils_all(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    environ.clear()
    start_response("200 OK", TEXT)
    return [b"body"]


def writes_too_late(environ: Environ, start_response: StartResponse, wire: Wire) -> Iterable[bytes]:
    """What is said of a response that is over is no news to anybody."""
    for write, hints in LATE:
        with suppress(Exception):
            hints([("Link", "</style.css>; rel=preload")])
        with suppress(Exception):
            write(b"late")
    LATE.append((sized(start_response, 4), environ["wsgi.early_hints"]))
    return [b"body"]


LATE: list[tuple[Callable[[bytes], object], Callable[[object], object]]] = []

CASES: list[Case] = [
    one_piece, a_tuple, two_pieces, no_length, nothing, an_empty_piece, too_short, too_long, text,
    no_content, not_modified, unavailable, missing, dated, big, a_generator, in_pieces,
    an_empty_one_first, more_than_it_said, none_at_all, closes, closes_in_pieces, fails_after_all,
    fails, leaves, says_nothing, is_none, cannot_close, writes, writes_all, starts_late,
    starts_twice, changes_its_mind, bad_header, interim, a_file, hints, hints_in_between, remembers,
    tells, spoils, spoils_all, writes_too_late,
]  # fmt: skip


def serving(wire: Wire, case: Case) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/quick":
            return one_piece(environ, start_response, wire)
        return case(environ, start_response, wire)

    return app


def asked(served: Served, *fields: str) -> list[object]:
    """All that can be seen of a request and its answer, and whether the client is kept."""
    client = served.connect()
    client.request("GET", "/case?a=1", *fields)
    interim: list[bytes] = []
    while (reply := part(client)) is not None and reply.status < 200:
        interim.append(reply.head)
    if reply is None or not reply.keeps_alive:
        return [interim, reply and settled(reply.head), reply and reply.body, ending(client)]
    seen: list[object] = [interim, settled(reply.head), reply.body, client.get("/quick").text]
    client.close()
    return seen


def part(client: Client) -> Reply | None:
    """The next response; None where there is none, or not all of it."""
    try:
        return client.reply()
    except (AssertionError, ConnectionResetError):
        return None


def ending(client: Client) -> bytes:
    try:
        client.end()
        return client.rest()
    except OSError:
        return b"reset"


def settled(head: bytes) -> bytes:
    return re.sub(rb"Date: .{29}\r\n", b"Date: now\r\n", head)


def said(served: Served, wire: Wire) -> list[str]:
    """What was logged, and what the app has said, in all its life."""
    served.stop()
    lines = [re.sub(r"[0-9.]+ ms", "a while", line) for line in served.log.rest()]
    return sorted(line for line in lines + wire.rest() if not line.startswith("DEBUG"))


@pytest.mark.parametrize("fields", [[], ["Connection: close"]], ids=["kept", "close"])
@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_everybody_sees_the_same(
    serve_sync: Serve, monkeypatch: pytest.MonkeyPatch, case: Case, fields: list[str]
) -> None:
    """With a hook all goes the way for everything; else the short way: new, known, and quick."""
    monkeypatch.setattr(together, "QUICK", 60.0)
    wire = Wire()
    usual = serve_sync(serving(wire, case), hooks=Hooks(post_request=lambda *_: None))
    expected = asked(usual, *fields)
    expected_lines = said(usual, wire)

    wire = Wire()
    short = serve_sync(serving(wire, case))
    for _ in range(5):
        assert asked(short, *fields) == expected
    client = short.connect()
    for _ in range(3 * together.PROVEN):
        client.get("/quick")
    client.close()
    for _ in range(3):
        assert asked(short, *fields) == expected
    assert said(short, wire) == sorted(expected_lines * 8)
    assert short.slot.counters[0] == 3 * together.PROVEN + 8 * usual.slot.counters[0]
    assert short.slot.counters[1] == 8 * usual.slot.counters[1]
