"""Requests that are read, answered and sent in a row: what befalls one is nothing to the others."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from errno import EAGAIN, ECONNRESET
from signal import SIGABRT, alarm
from typing import Any

import pytest

from prefork_sd.applog import served as in_hand
from prefork_sd.hooks import Hooks
from prefork_sd.workers import hearing, shortway
from prefork_sd.workers.connection import Connection
from prefork_sd.workers.sync import SyncWorker
from tests.http.apps import TEXT
from tests.http.conftest import Serve
from tests.http.serving import Client, Environ, StartResponse, Wire
from tests.http.test_together import ask_at_once, echo, patient, prove, request

__all__ = ["patient"]

# bytes of a request around what is read at once of each
SIZES = [edge + more for edge in (hearing.SMALL, hearing.LONGEST) for more in range(-2, 3)]


CROWD = 8  # clients that ask at once


def sized(size: int) -> bytes:
    """A request that has so many bytes."""
    return request("/", f"X: {'x' * (size - len(request('/', 'X: ')))}")


class Failing(SyncWorker):
    """Some calls of the system, counted from the one that a test has asked for, fail."""

    call = "write"
    failures: dict[int, int] = {}  # noqa: RUF012 (errno by the number of the call)

    def prepare(self) -> None:
        super().prepare()
        self.calls = 0
        real: Callable[..., Any] = getattr(os, self.call)

        def fails(*args: Any) -> Any:
            if self.armed and (self.call == "read" or args[1][:4] == b"HTTP"):
                self.calls += 1
                if number := self.failures.get(self.calls):
                    raise OSError(number, os.strerror(number))
            return real(*args)

        setattr(os, self.call, fails)
        if hasattr(hearing, self.call):
            setattr(hearing, self.call, fails)
        self.armed = False

    def deal(self, events: list[tuple[int, int]]) -> None:
        self.armed = len(events) == CROWD
        super().deal(events)


class FailingRead(Failing):
    call = "read"
    failures = {2: ECONNRESET, 3: EAGAIN, 4: ECONNRESET}  # noqa: RUF012


class FailingWrite(Failing):
    failures = {2: ECONNRESET, 3: EAGAIN, 4: ECONNRESET}  # noqa: RUF012


def gets(client: Client, text: str) -> bool:
    """Whether that is the answer; False: there is none, and the connection is over."""
    try:
        return client.reply().text == text
    except (AssertionError, ConnectionResetError):
        return False


@pytest.mark.parametrize("worker", [FailingRead, FailingWrite])
@pytest.mark.usefixtures("patient")
def test_who_leaves_takes_nobody_else_away(serve_sync: Serve, worker: type[Failing]) -> None:
    served = serve_sync(echo, worker=worker)
    prove(served)
    clients = [served.connect() for _ in range(CROWD)]
    for client in clients:
        client.get("/first")
    ask_at_once(served, clients, [request(f"/{number}") for number in range(CROWD)])
    answered = [gets(client, f"/{number}") for number, client in enumerate(clients)]
    assert answered.count(False) == 2
    assert served.get("/after").text == "/after"


@pytest.mark.usefixtures("patient")
def test_any_size_of_request(serve_sync: Serve) -> None:
    served = serve_sync(echo)
    prove(served)
    clients = [served.connect() for _ in SIZES]
    for _ in range(3):
        ask_at_once(served, clients, [sized(size) for size in SIZES])
        assert [client.reply().text for client in clients] == ["/"] * len(SIZES)
        ask_at_once(served, clients, [request("/small")] * len(SIZES))
        assert [client.reply().text for client in clients] == ["/small"] * len(SIZES)


@pytest.mark.usefixtures("patient")
def test_a_body_of_any_size(serve_sync: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        data = b"%d" % len(environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Length", str(len(data)))])
        return [data]

    served = serve_sync(app)
    client = prove(served)
    for size in (1, 100, hearing.SMALL, hearing.LONGEST, 65536, 200_000) * 2:
        client.request("POST", body=bytes(size))
        assert client.reply().text == str(size)
        assert client.get("/").text == "0"


@pytest.mark.parametrize("quick", [False, True])
def test_the_app_is_not_called_while_an_error_is_handled(serve: Serve, quick: bool) -> None:
    """It would see ours as its own, in `sys.exc_info` and as the context of what it raises."""
    served = serve(answering(lambda _: str(sys.exc_info()[0]).encode()))
    client = prove(served) if quick else served.connect()
    other = served.connect()
    assert [one.get("/").text for one in (client, other, client, other)] == ["None"] * 4
    assert served.get("/").text == "None"


# ---- whose request a line belongs to


@pytest.fixture(params=[False, True])
def sharing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the app has loaded what lets one thread work on several requests in turns."""
    modules = {"os"} if request.param else set[str]()
    monkeypatch.setattr(shortway, "SHARING", frozenset(modules))
    return bool(request.param)


def named(environ: Environ) -> bytes:
    request = in_hand()
    return request.path.encode() if request is not None else b"nobody"


def asked_by_a_thread(environ: Environ) -> bytes:
    found: list[bytes] = []
    run = copy_context().run if environ["PATH_INFO"] == "/copied" else lambda work: work()
    thread = threading.Thread(target=run, args=[lambda: found.append(named(environ))])
    thread.start()
    thread.join()
    return found.pop()


def answering(by: Callable[[Environ], bytes]) -> Callable[..., Iterable[bytes]]:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        data = by(environ)
        start_response("200 OK", [("Content-Length", str(len(data)))])
        return [data]

    return app


@pytest.mark.parametrize("by", [named, asked_by_a_thread])
@pytest.mark.parametrize("path", ["/plain", "/copied"])
@pytest.mark.usefixtures("patient")
def test_the_request_in_hand(
    serve_sync: Serve, sharing: bool, by: Callable[[Environ], bytes], path: str
) -> None:
    """A thread that has no copy of the context is nobody's, unless it can only be of this one."""
    served = serve_sync(answering(by))
    client, other = prove(served), served.connect()
    known = not sharing or by is named
    for _ in range(3):
        assert client.get(path).text == (path if known or path == "/copied" else "nobody")
        assert other.get("/other").text == ("/other" if known else "nobody")


class Straggler:
    """Works on after its request is over: says on demand which one it thinks it is."""

    def __init__(self, copied: bool) -> None:
        self.copied = copied
        self.asked, self.told = threading.Event(), threading.Event()
        self.found = b""

    def __call__(self, environ: Environ) -> bytes:
        path: str = environ["PATH_INFO"]
        if path == "/leaves":
            run = copy_context().run if self.copied else lambda work: work()
            threading.Thread(target=run, args=[self.work]).start()
            return b"left"
        if path == "/asks":
            self.asked.set()
            self.told.wait(10)
            return self.found
        return named(environ)

    def work(self) -> None:
        self.asked.wait(10)
        self.found = named({})
        self.told.set()


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.usefixtures("patient", "sharing")
def test_a_straggler_is_not_taken_for_another_request(serve_sync: Serve, copied: bool) -> None:
    served = serve_sync(answering(Straggler(copied)))
    client, other = prove(served), served.connect()
    assert client.get("/leaves").text == "left"
    assert other.get("/mine").text == "/mine"
    assert other.get("/asks").text in ("nobody", "/leaves")
    assert other.get("/mine").text == "/mine"


@pytest.mark.usefixtures("patient", "sharing")
def test_what_is_made_later_knows_its_request(serve_sync: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"now by %b, " % named(environ)
        yield bytes(50_000_000)
        yield b" then by %b" % named(environ)

    served = serve_sync(app, response_buffer=1000)
    client = served.connect()
    client.get("/first")
    assert client.get("/again").text.endswith(" then by /again")


class Comes:
    """Has a thread, until it is told that it goes."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.end.wait)

    def __call__(self, environ: Environ) -> bytes:
        said = named(environ)
        if environ["PATH_INFO"] == "/start":
            self.thread.start()
        if environ["PATH_INFO"] == "/stop":
            self.end.set()
            self.thread.join()
        return said


@pytest.mark.usefixtures("patient", "sharing")
def test_threads_that_come_and_go_while_many_requests_are_answered(serve_sync: Serve) -> None:
    served = serve_sync(answering(Comes()))
    prove(served)
    paths = ["/zero", "/start", "/second", "/stop", "/fourth", "/fifth"]
    clients = [served.connect() for _ in paths]
    for client in clients:
        client.get("/first")
    ask_at_once(served, clients, [request(path) for path in paths])
    assert [client.reply().text for client in clients] == paths


def test_a_task_that_goes_on_while_another_request_is_served(serve_sync: Serve) -> None:
    class App:
        def __init__(self) -> None:
            self.loop = asyncio.new_event_loop()

        def __call__(self, environ: Environ) -> bytes:
            return self.loop.run_until_complete(self.work(environ))

        async def later(self) -> bytes:
            await self.event.wait()
            return named({})

        async def work(self, environ: Environ) -> bytes:
            if environ["PATH_INFO"] == "/spawn":
                self.event = asyncio.Event()
                self.task = asyncio.ensure_future(self.later())
            if environ["PATH_INFO"] == "/finish":
                self.event.set()
                return await self.task
            return named(environ)

    served = serve_sync(answering(App()))
    client = prove(served)
    assert client.get("/spawn").text == "/spawn"
    assert client.get("/finish").text == "/spawn"


# ---- the ends of batches


class Again(SyncWorker):
    """The first write to each of some clients finds no room, the next one does."""

    def prepare(self) -> None:
        super().prepare()
        real, seen = os.write, set[int]()

        def write(fd: int, data: bytes | memoryview) -> int:
            if bytes(data[:4]) == b"HTTP" and b"/fresh" in bytes(data) and fd not in seen:
                seen.add(fd)
                raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
            return real(fd, data)

        os.write = write  # type: ignore[assignment]


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.usefixtures("patient")
def test_a_new_client_that_takes_its_response_on_the_second_try(
    serve_sync: Serve, ends: bool
) -> None:
    served = serve_sync(echo, worker=Again, head_timeout=3)
    prove(served)
    with served.stopped():
        client = served.connect()
        client.send(request("/fresh"))
        if ends:
            client.end()
    assert client.reply().text == "/fresh"
    if ends:
        assert client.rest() == b""
    else:
        assert client.get("/again").text == "/again"


class Telling(list[Any]):
    def clear(self) -> None:
        super().clear()
        os.kill(os.getpid(), SIGABRT)


class Aborted(SyncWorker):
    """Told to end between the lines with which it forgets what has left."""

    def send_held(self) -> None:
        if len(self.held) == 2:
            self.waiting = Telling(self.waiting)
        super().send_held()


@pytest.mark.usefixtures("patient")
def test_told_to_end_while_it_forgets_what_has_left(serve_sync: Serve, wire: Wire) -> None:
    hooks = Hooks(worker_abort=lambda _: wire.say("aborted"))
    served = serve_sync(echo, worker=Aborted, hooks=hooks)
    prove(served)
    clients = [served.connect() for _ in range(2)]
    for client in clients:
        client.get("/first")
    ask_at_once(served, clients, [request("/a"), request("/b")])
    assert served.exit().status != 0
    assert wire.hear() == "aborted"
    assert [client.rest().count(b"HTTP/1.1 200") for client in clients] == [1, 1]


@pytest.mark.usefixtures("patient")
def test_a_last_request_that_has_just_the_size_of_what_is_read(serve_sync: Serve) -> None:
    """More may be behind it, which would make of close() a reset."""
    served = serve_sync(echo)
    prove(served)
    client = served.connect()
    client.get("/first")
    size = hearing.SMALL - len(request("/", "Connection: close", "X: "))
    last = request("/", "Connection: close", f"X: {'x' * size}")
    assert len(last) == hearing.SMALL
    ask_at_once(served, [client], [last + request("/more")])
    assert client.reply().text == "/"
    assert client.rest() == b""


class Reading(SyncWorker):
    """Says what does not go the short way."""

    wire: Wire

    def leave_to_serve(self, connection: Connection, data: bytes) -> None:
        self.wire.say("the long way")
        super().leave_to_serve(connection, data)


@pytest.mark.usefixtures("patient")
def test_the_room_for_requests_stays_while_others_connect(serve_sync: Serve, wire: Wire) -> None:
    Reading.wire = wire
    served = serve_sync(echo, worker=Reading)
    client = prove(served)
    for _ in range(20):
        client.send(sized(1000))
        client.reply()
        served.connect().get("/first")
    served.stop()
    assert len(wire.rest()) < 5


@pytest.mark.parametrize("ends", ["exits", "fails", "returns"])
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.usefixtures("patient")
def test_a_forked_process_is_no_second_worker(
    serve_sync: Serve, wire: Wire, ends: str, quick: bool
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fork":
            if (pid := os.fork()) == 0:
                alarm(10)  # if it serves on, not for ever
                if ends == "exits":
                    sys.exit(7)
                if ends == "fails":
                    raise ValueError("on purpose")
                return echo(environ, start_response)
            wire.say(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
        return echo(environ, start_response)

    served = serve_sync(app)
    if quick:
        prove(served)
    clients = [served.connect() for _ in range(3)]
    for client in clients:
        client.get("/first")
    ask_at_once(served, clients, [request(path) for path in ("/fork", "/a", "/b")])
    assert [client.reply().text for client in clients] == ["/fork", "/a", "/b"]
    assert wire.hear() == ("7" if ends == "exits" else "1")
    assert [client.get("/again").text for client in clients] == ["/again"] * 3
