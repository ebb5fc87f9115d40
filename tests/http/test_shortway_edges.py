"""What could go wrong on the short way, and where it meets the way for everything."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from signal import SIGTERM
from typing import Any

import pytest

from prefork_sd import http1
from prefork_sd.hooks import Hooks
from prefork_sd.workers import together
from prefork_sd.workers.sync import SyncWorker
from prefork_sd.workers.terms import Terms
from tests.http.apps import TEXT, hourglass
from tests.http.conftest import Serve
from tests.http.serving import Environ, Served, StartResponse
from tests.http.test_together import ask_at_once, echo, patient, prove, request

__all__ = ["patient"]


def test_max_requests_is_noticed_though_many_are_counted_at_once(serve_sync: Serve) -> None:
    served = serve_sync(echo, max_requests=3 * together.PROVEN + 4)
    client = prove(served)
    clients = [served.connect() for _ in range(9)]
    for one in (*clients[:1], client):
        one.get("/first")  # 3 * PROVEN + 2
    assert not served.slot.tired
    ask_at_once(served, [client, *clients], [request("/x")] * 10)
    for one in (client, *clients):
        one.reply()
    client.get("/after")
    client.get("/after")
    assert served.slot.tired


@pytest.mark.parametrize("quick", [False, True])
def test_an_environ_that_was_emptied(serve_sync: Serve, quick: bool) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/bad":
            environ.clear()
            start_response("200 OK", TEXT)
            return [b"body"]
        return echo(environ, start_response)

    served = serve_sync(app)
    client = prove(served) if quick else served.connect()
    assert client.get("/bad").text == "body"
    assert client.get("/good").text == "/good"


def test_an_iterable_that_knows_no_close(serve_sync: Serve) -> None:
    class Bad:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"body"])

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/bad":
            start_response("200 OK", [("Content-Length", "4")])
            return Bad()
        return echo(environ, start_response)

    served = serve_sync(app)
    client = prove(served)
    assert client.get("/bad").status == 500
    assert client.get("/good").text == "/good"


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.usefixtures("patient")
def test_an_error_after_the_only_block(serve_sync: Serve, quick: bool) -> None:
    """What was yielded before the app changed its mind is taken back with its head."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"].encode()
        start_response("200 OK", [("Content-Length", str(len(path)))])
        return blocks(path, start_response)

    def blocks(path: bytes, start_response: StartResponse) -> Iterator[bytes]:
        yield path
        if path == b"/bad":
            try:
                raise ValueError("on purpose")
            except ValueError as error:
                info = (ValueError, error, error.__traceback__)
                start_response("500 Oops", [("Content-Length", "5")], info)
            yield b"sorry"

    hooks = None if quick else Hooks(post_request=lambda *_: None)  # the way for everything
    served = serve_sync(app, hooks=hooks)
    client = prove(served)
    reply = client.get("/bad")
    assert (reply.status, reply.text) == (500, "sorry")


def test_keepalive_of_a_client_that_took_its_time(serve_sync: Serve) -> None:
    served = serve_sync(echo, keepalive=1, head_timeout=60)
    client = served.connect()
    served.get("/other")  # the worker has met the client, and found nothing
    client.get("/first")
    hourglass(serve_sync, 4)
    client.sock.setblocking(False)
    assert client.sock.recv(1) == b""


def test_a_slow_app_does_not_keep_its_client(serve_sync: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass
        return echo(environ, start_response)

    served = serve_sync(app, workers=2)
    assert not served.connect().get("/a").keeps_alive


class ToldEarly(SyncWorker):
    def prepare(self) -> None:
        os.kill(os.getpid(), SIGTERM)
        super().prepare()


def test_told_to_leave_before_it_is_set_up(serve_sync: Serve) -> None:
    served = Served(echo, ToldEarly)
    try:
        assert served.exit().status == 0, served.words.read()
    finally:
        served.close()


@pytest.mark.usefixtures("patient")
def test_a_response_that_is_over_says_nothing_more(serve_sync: Serve) -> None:
    late: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/keeps":
            data = path.encode()
            late.append(start_response("200 OK", [*TEXT, ("Content-Length", str(len(data)))]))
            return [data]
        if path == "/late":
            with suppress(Exception):
                late.pop()(b"/stale")
        return echo(environ, start_response)

    served = serve_sync(app)
    prove(served)
    victim, other = served.connect(), served.connect()
    assert victim.get("/keeps").text == "/keeps"
    assert other.get("/late").text == "/late"
    assert victim.get("/mine").text == "/mine"


@pytest.mark.usefixtures("patient")
def test_early_hints_that_are_late(serve_sync: Serve) -> None:
    late: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/keeps":
            late.append(environ["wsgi.early_hints"])
        if path == "/late":
            with suppress(Exception):
                late.pop()([("Link", "</a.css>; rel=preload")])
        return echo(environ, start_response)

    served = serve_sync(app)
    prove(served)
    victim, other = served.connect(), served.connect()
    assert victim.get("/keeps").text == "/keeps"
    assert other.get("/late").text == "/late"
    assert victim.get("/mine").text == "/mine"


@pytest.mark.usefixtures("patient")
def test_new_clients_of_a_proxy_leave_others_their_turn(serve_sync: Serve) -> None:
    order: list[str] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        order.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/order":
            data = " ".join(order).encode()
            start_response("200 OK", [("Content-Length", str(len(data)))])
            return [data]
        return echo(environ, start_response)

    served = serve_sync(app, proxy_protocol=True, forwarded_allow_ips=["127.0.0.1"])
    first = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    old = served.connect()
    old.send(first + request("/old"))
    old.reply()
    for _ in range(3 * together.PROVEN):
        old.get("/quick")
    with served.stopped():
        new = [served.connect() for _ in range(300)]
        for one in new:
            one.send(first + request("/new"))
        old.send(request("/old-again"))
    old.reply()
    for one in new:
        one.reply()
    seen = old.get("/order").text.split()
    start = seen.index("/new")
    assert seen.index("/old-again") - start < 100


def test_what_is_not_plain_is_remembered_when_it_comes_again() -> None:
    terms = Terms({"SCRIPT_NAME": ""}, http1.Limits(), body_buffer=1, send_timeout=1.0)
    for number in range(100):
        data = b"HEAD /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number
        assert terms.template(data) is None
        assert terms.head(data) is not None
    assert not terms.heads.known
