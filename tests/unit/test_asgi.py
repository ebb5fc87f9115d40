"""The thinking behind the `asgi` worker: which app is one, its lifespan, its scopes."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import fastapi
import flask
import pytest
import quart
import starlette.applications
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler

from prefork_sd import proxyprotocol
from prefork_sd.building import build
from prefork_sd.imports import ASGI, WSGI, interface_of
from prefork_sd.workers.asgiscope import Scopes
from prefork_sd.workers.asgiservice import waits
from prefork_sd.workers.lifespan import App, Lifespan, Message, StartupError

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def plain(scope: Any, receive: Any, send: Any) -> None:
    pass


def wrapped(app: Any) -> Any:
    """As some middleware does: a plain function that returns the app's coroutine."""

    def call(scope: Any, receive: Any, send: Any) -> Any:
        return app(scope, receive, send)

    return call


@functools.wraps(plain)
def with_any(*arguments: Any) -> Any:
    return plain(*arguments)


class Middleware:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)

    async def bound(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


class Wsgi:
    def __call__(self, environ: Any, start_response: Any, *more: Any) -> list[bytes]:
        return []


@pytest.mark.parametrize(
    "app",
    [
        plain,
        functools.partial(plain),
        wrapped(plain),
        with_any,
        Middleware(plain),
        Middleware(plain).bound,
        starlette.applications.Starlette(),
        fastapi.FastAPI(),
        quart.Quart(__name__),
        ASGIHandler.__new__(ASGIHandler),
    ],
    ids=lambda app: type(app).__name__,
)
def test_an_asgi_app_is_known_by_what_it_takes(app: Any) -> None:
    assert interface_of(app) == ASGI


@pytest.mark.parametrize(
    "app",
    [
        wsgi,
        functools.partial(wsgi),
        Wsgi(),
        flask.Flask(__name__),
        WSGIHandler.__new__(WSGIHandler),
        lambda *_: [],
        dict,
    ],
    ids=lambda app: type(app).__name__,
)
def test_everything_else_is_wsgi(app: Any) -> None:
    assert interface_of(app) == WSGI


# ---- lifespan


class Reports(list[str]):
    def __call__(self, text: str, error: BaseException) -> None:
        self.append(f"{text}: {error}")


def live(app: App) -> tuple[dict[str, Any], Reports]:
    """A whole lifespan: what requests would have had, and what was reported."""
    reports = Reports()

    async def run() -> dict[str, Any]:
        lifespan = Lifespan(app, reports)
        await lifespan.startup()
        state = dict(lifespan.state)
        await lifespan.shutdown()
        return state

    return asyncio.run(asyncio.wait_for(run(), 10)), reports


def messages(*kinds: str, **more: str) -> App:
    """An app that answers each event of its lifespan with such a message."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        for kind in kinds:
            await receive()
            scope["state"][kind] = True
            await send({"type": f"lifespan.{kind}", **more})

    return app


def test_a_lifespan_has_a_state_for_the_requests() -> None:
    state, reports = live(messages("startup.complete", "shutdown.complete"))
    assert state == {"startup.complete": True}
    assert reports == []


def test_an_app_may_return_after_its_startup() -> None:
    assert live(messages("startup.complete"))[1] == []


def test_an_app_that_refuses_the_scope_has_no_lifespan() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise ValueError(scope["type"])

    assert live(app) == ({}, [])


def test_an_app_that_takes_it_for_a_request_has_no_lifespan() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert live(app) == ({}, [])


def test_a_startup_that_raises_has_its_traceback() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        raise LookupError("no database")

    with pytest.raises(StartupError) as caught:
        live(app)
    assert str(caught.value) == "the app's startup failed: LookupError: no database"
    assert "in app" in caught.value.details


def test_a_startup_that_says_why_and_raises() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        try:
            raise LookupError("no database")
        except LookupError:
            await send({"type": "lifespan.startup.failed", "message": "Traceback ..."})
            raise

    with pytest.raises(StartupError, match="LookupError: no database"):
        live(app)


@pytest.mark.parametrize(
    ("message", "reason"),
    [("no database", "no database"), ("Traceback\n  x\nKeyError: 1\n", "KeyError: 1"), ("", "why")],
)
def test_a_startup_that_says_why(message: str, reason: str) -> None:
    with pytest.raises(StartupError, match=f"{reason}$"):
        live(messages("startup.failed", message=message))


def test_a_shutdown_that_fails_is_reported() -> None:
    app = messages("startup.complete", "shutdown.failed", message="still busy")
    assert live(app)[1] == ["the app's shutdown failed: still busy"]


def test_an_error_after_the_startup_is_reported() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise LookupError("gone")

    assert live(app)[1] == ["the app's lifespan ended with an error: gone"]


# ---- scopes


def scope_of(path: str, *headers: tuple[str, str], kind: str = "http") -> dict[str, Any]:
    return {
        "type": kind,
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": ("127.0.0.1", 1234),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }


def scopes(*, prefixed: bool = True, **settings: object) -> Scopes:
    return Scopes(build({"app": "a:b", **settings}), prefixed=prefixed)


@pytest.mark.parametrize(
    ("prefixed", "came", "path"),
    [
        (True, "/shop/cart", "/shop/cart"),
        (True, "/cart", "/shop/cart"),
        (True, "/shopping", "/shop/shopping"),
        (True, "/shop", "/shop"),
        (False, "/shop/cart", "/cart"),
        (False, "/cart", "/cart"),
    ],
)
def test_where_the_app_is_mounted(prefixed: bool, came: str, path: str) -> None:
    scope = scope_of(came)
    assert scopes(prefixed=prefixed, script_name="/shop").settle(scope) == 0
    assert (scope["root_path"], scope["path"]) == ("/shop", path)
    assert scope["raw_path"] == path.encode()


def test_a_trusted_proxy_tells_who_the_client_is() -> None:
    scope = scope_of(
        "/",
        ("host", "inside"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-prefix", "/shop"),
    )
    everything = [name.decode() for name, _ in scope["headers"][1:]]
    assert scopes(forwarded_headers=everything).settle(scope) == 0
    assert scope["client"] == ("203.0.113.7", 0)
    assert scope["scheme"] == "https"
    assert (b"host", b"shop.example") in scope["headers"]
    assert (b"host", b"inside") not in scope["headers"]
    assert (scope["root_path"], scope["path"]) == ("/shop", "/shop/")


def test_a_websocket_keeps_its_scheme() -> None:
    scope = scope_of("/", ("x-forwarded-proto", "https"), kind="websocket")
    scopes().settle(scope)
    assert scope["scheme"] == "wss"


def test_a_stranger_tells_nothing() -> None:
    scope = scope_of("/", ("x-forwarded-for", "203.0.113.7"), ("x-forwarded-proto", "https"))
    scope["client"] = ("198.51.100.1", 1)
    scopes().settle(scope)
    assert (scope["client"], scope["scheme"]) == (("198.51.100.1", 1), "http")


def test_repeated_headers_are_one_list() -> None:
    scope = scope_of("/", ("x-forwarded-for", "203.0.113.7"), ("x-forwarded-for", "127.0.0.1"))
    scopes().settle(scope)
    assert scope["client"][0] == "203.0.113.7"


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        (scope_of("/" + "x" * 9000), 414),
        (scope_of("/", ("name", "x" * 9000)), 431),
        (scope_of("/", *[("name", "x")] * 101), 431),
        (scope_of("/", ("content-length", str(2**31))), 413),
        (scope_of("/", ("content-length", "1")), 0),
    ],
)
def test_the_limits_hold(scope: dict[str, Any], status: int) -> None:
    assert scopes().settle(scope) == status


# ---- the rest


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY TCP4 203.0.113.7 127.0.0.1 5 80\r\n",
        proxyprotocol.SIGNATURE + bytes([proxyprotocol.LOCAL, 0, 0, 0]),
        proxyprotocol.SIGNATURE + bytes([proxyprotocol.PROXY, 0x11, 0, 12, *range(12)]),
        proxyprotocol.SIGNATURE + bytes([proxyprotocol.PROXY, 0x11, 0, 15, *range(15)]),
    ],
)
def test_a_proxy_header_is_read_without_a_byte_too_many(header: bytes) -> None:
    stream = header + b"GET / HTTP/1.1\r\n"
    buffer, place = bytearray(), 0
    while proxyprotocol.read(buffer) is False:
        most = proxyprotocol.at_least_missing(buffer)
        buffer += stream[place : place + most]
        place += most
    assert (place, bytes(buffer)) == (len(header), b"")


def test_where_a_coroutine_waits() -> None:
    async def inner() -> None:
        await asyncio.Event().wait()

    async def outer() -> None:
        await inner()

    async def look() -> list[str]:
        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        frames = list(waits(task.get_coro()))
        task.cancel()
        return frames

    assert [frame.split()[-1] for frame in asyncio.run(look())] == ["wait", "inner", "outer"]
