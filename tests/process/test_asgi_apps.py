"""The frameworks that people write ASGI apps with, under reload."""

import pytest

from tests.process.systemd import Systemd
from tests.process.test_load import Load
from tests.process.websocket import WebSocket

STARLETTE = """
import contextlib
import os
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

VERSION = "1"

@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"version": VERSION}

async def index(request):
    return PlainTextResponse(f"{request.state.version} {os.getpid()}")

async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(websocket.state.version)
    while True:
        await websocket.send_text(await websocket.receive_text())

routes = [Route("/", index), WebSocketRoute("/echo", echo)]
application = Starlette(routes=routes, lifespan=lifespan)
"""

FASTAPI = """
import contextlib
import os
from fastapi import FastAPI, WebSocket
from fastapi.responses import PlainTextResponse

VERSION = "1"

@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"version": VERSION}

application = FastAPI(lifespan=lifespan)

@application.get("/", response_class=PlainTextResponse)
def index():
    return f"{VERSION} {os.getpid()}"

@application.websocket("/echo")
async def echo(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text(websocket.state.version)
    while True:
        await websocket.send_text(await websocket.receive_text())
"""

QUART = """
import os
from quart import Quart, websocket

VERSION = "1"
application = Quart(__name__)

@application.before_serving
async def startup():
    application.version = VERSION

@application.get("/")
async def index():
    return f"{application.version} {os.getpid()}"

@application.websocket("/echo")
async def echo():
    await websocket.send(application.version)
    while True:
        await websocket.send(await websocket.receive())
"""

DJANGO = """
import os
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

VERSION = "1"
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="none")

async def index(request):
    return HttpResponse(f"{VERSION} {os.getpid()}")

urlpatterns = [path("", index)]
pages = get_asgi_application()

async def application(scope, receive, send):
    # Django itself has no WebSockets: they are told apart in front of it
    if scope["type"] != "websocket":
        await pages(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": VERSION})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
"""

LITESTAR = """
import contextlib
import os
from litestar import Litestar, MediaType, WebSocket, get, websocket

VERSION = "1"

@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.version = VERSION
    yield

@get("/", media_type=MediaType.TEXT)
async def index() -> str:
    return f"{VERSION} {os.getpid()}"

@websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(socket.app.state.version)
    while True:
        await socket.send_text(await socket.receive_text())

application = Litestar([index, echo], lifespan=[lifespan])
"""

APPS = {
    "starlette": STARLETTE,
    "fastapi": FASTAPI,
    "quart": QUART,
    "django": DJANGO,
    "litestar": LITESTAR,
}


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("name", APPS)
def test_a_reload_loses_no_request(systemd: Systemd, name: str, preload: bool) -> None:
    source = APPS[name]
    systemd.write("app.py", source)
    systemd.up(workers=2, preload_app=preload)
    load = Load(systemd)
    sockets = [WebSocket(systemd.listeners[0][1], "/echo") for _ in range(2)]
    assert [socket.frame().text for socket in sockets] == ["1", "1"]
    assert [socket.say("hello") for socket in sockets] == ["hello", "hello"]
    systemd.write("app.py", source.replace('VERSION = "1"', 'VERSION = "2"'))
    client = systemd.run("reload", str(systemd.yaml))
    for answer in load.until(client):
        assert answer.version in ("1", "2")
    assert client.status == 0
    assert {systemd.get().version for _ in range(6)} == {"2"}
    assert [socket.closed() for socket in sockets] == [1012 for _ in sockets]
    assert not systemd.all_records(level="error")


BROKEN = {"starlette": "    yield {", "fastapi": "    yield {", "litestar": "    yield"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_lifespan_that_fails_is_a_failed_boot(systemd: Systemd, name: str) -> None:
    end = BROKEN[name]
    source = APPS[name].replace(end, f'    raise LookupError("no database")\n{end}', 1)
    systemd.write("app.py", source)
    systemd.start(workers=1)
    assert systemd.ended() == 3
    message = systemd.record("worker-boot-failed")["message"]
    said = "the app's startup failed: LookupError: no database"
    assert said in message
    assert said in systemd.said("STATUS")[-1].fields["STATUS"]
    assert "in lifespan" in message
