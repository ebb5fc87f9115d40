"""The ASGI app under test. A test deploys it as app.py, with another VERSION for a release."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

VERSION = "1"
Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def knock(what: str) -> str:
    """Tell the test that we got here, and wait until it lets us go with a word."""
    reader, writer = await asyncio.open_unix_connection(os.environ["GATE"])
    writer.write(f"{os.getpid()} {what}\n".encode())
    word = await reader.read(4096)
    writer.close()
    return word.decode()


async def index(scope: Scope) -> AsyncIterator[bytes]:
    yield f"{VERSION} {os.getpid()}".encode()


async def wait(scope: Scope) -> AsyncIterator[bytes]:
    await knock("request")
    async for part in index(scope):
        yield part


async def stream(scope: Scope) -> AsyncIterator[bytes]:
    """Many parts, the test waits for nobody between the first and the last."""
    yield b"first\n"
    await knock("stream")
    for _ in range(3):
        yield b"x" * 1_000_000
    yield b"last\n"


async def spin(scope: Scope) -> AsyncIterator[bytes]:
    while True:
        time.monotonic()
    yield b""


async def raising(scope: Scope) -> AsyncIterator[bytes]:
    raise LookupError("no such page")
    yield b""


async def told(scope: Scope) -> AsyncIterator[bytes]:
    """What the scope says."""
    names = ("path", "root_path", "client", "scheme", "state")
    yield repr({name: scope[name] for name in names}).encode()


PAGES: dict[str, Callable[[Scope], AsyncIterator[bytes]]] = {
    "/wait": wait,
    "/stream": stream,
    "/spin": spin,
    "/raise": raising,
    "/told": told,
}


async def startup(state: dict[str, Any]) -> None:
    state["began"] = VERSION


async def shutdown(state: dict[str, Any]) -> None:
    pass


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await startup(scope["state"])
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await shutdown(scope["state"])
    await send({"type": "lifespan.shutdown.complete"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket that says who it is, then what it hears; the test learns how it ended."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": f"{VERSION} {os.getpid()}"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    await knock(f"disconnect {message.get('code')}")


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    if scope["type"] == "websocket":
        await echo(scope, receive, send)
        return
    page = PAGES.get(scope["path"], index)
    started = False
    async for part in page(scope):
        if not started:
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            started = True
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
