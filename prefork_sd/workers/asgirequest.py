"""Our side of every ASGI request: limits, evidence, counters, records. It knows no uvicorn."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from prefork_sd.applog import REQUEST
from prefork_sd.scoreboard import LANES
from prefork_sd.workers.access import AccessLog
from prefork_sd.workers.asgiscope import Scope, Scopes, raw_path
from prefork_sd.workers.base import Worker
from prefork_sd.workers.lifespan import App, Message
from prefork_sd.workers.wear import Wear

CLOSE = (b"connection", b"close")
RESTART = 1012  # RFC 6455, 7.4.2, and IANA: "Service Restart"
GONE = 499  # the status in records of requests whose client left before the answer
REASONS = {
    408: b"the request took too long\n",
    413: b"the body is too large\n",
    414: b"the request line is too long\n",
    431: b"the header section is too large\n",
    500: b"Internal Server Error\n",
    503: b"the service restarts\n",
}
# what frameworks raise in an app when its client has left
LEFT = frozenset({"ClientDisconnect", "ClientDisconnected", "WebSocketDisconnect"})


class ServiceRestartsError(ConnectionAbortedError):
    """What `send` raises on a WebSocket that was closed because the service restarts."""


class Reception:
    """An ASGI app around the app. `hurry` is called when there is something in hand again."""

    def __init__(
        self, worker: Worker, app: App, hurry: Callable[[], None], *, prefixed: bool
    ) -> None:
        cfg = worker.cfg
        self.worker = worker
        self.app = app
        self.state: dict[str, Any] = {}  # what the lifespan has for the requests
        self.tell_time: Callable[[], None] = lambda: None
        self.scopes = Scopes(cfg, prefixed=prefixed)
        self.in_hand: set[Exchange] = set()
        self.draining = False
        self.cutting = False
        self.no_keepalive = cfg.keepalive <= 0
        self.id_header = cfg.request_id_header.lower().encode()
        self.body_timeout = cfg.body_timeout or None
        self.body_limit = cfg.limit_request_body or 1 << 62
        self.wear = Wear(cfg, time.monotonic())
        self.access = AccessLog(cfg, worker.log, worker.fields)
        self.told: BaseException | None = None  # what uvicorn need not put on record
        self._hurry = hurry
        self._lanes = list(range(LANES - 1, 0, -1))  # 0 would say that it hears nobody meanwhile
        self.id_prefix = secrets.token_hex(5)
        self._called = 0

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        kind = Conversation if scope["type"] == "websocket" else Exchange
        await kind(self, scope, receive, send).run()

    # ---- what is in hand

    def enter(self, exchange: "Exchange") -> None:
        if not self.in_hand:
            self._hurry()
        self.in_hand.add(exchange)
        self._called += 1
        exchange.number = self._called
        if self._lanes:
            exchange.lane = self._lanes.pop()
            self.worker.tmp.begin(exchange.lane, exchange.line, exchange.started)
        REQUEST.set(exchange)

    def leave(self, exchange: "Exchange") -> None:
        """It is over: count, and put it on record if asked."""
        worker, now = self.worker, time.monotonic()
        self.in_hand.discard(exchange)
        if exchange.lane:
            worker.tmp.end(exchange.lane)
            self._lanes.append(exchange.lane)
        worker.hooks.post_request(worker, exchange, exchange.scope, exchange)
        exchange.status = exchange.status or GONE
        waited = (exchange.answered or now) - exchange.started
        worker.requests += 1
        worker.tmp.observe(exchange.status, waited, exchange.sent)
        worker.tmp.publish()
        if self.access.wants(exchange.status, waited, exchange.failure):
            remote = (exchange.scope.get("client") or ("",))[0]
            self.access.record(remote, exchange, exchange, now - exchange.started, waited)
        if self.wear.worn(worker.requests):
            worker.tire()

    def point_out(self, guilty: "Exchange") -> None:
        """Of all that is in hand, have only that one on the scoreboard."""
        for other in self.in_hand:
            if other.lane:
                self.worker.tmp.end(other.lane)
        self.worker.tmp.begin(guilty.lane or 1, guilty.line, guilty.started)

    def conversations(self) -> "Iterator[Conversation]":
        """The WebSockets."""
        return (one for one in list(self.in_hand) if isinstance(one, Conversation))


class Exchange:
    """One request and its answer, between uvicorn and the app.

    It is what hooks get as request and as response, and what the app's log records refer to.
    """

    __slots__ = (
        "_complete",
        "_left",
        "_raw",
        "_receive",
        "_received",
        "_send",
        "_whole",
        "answered",
        "failure",
        "house",
        "lane",
        "method",
        "number",
        "scope",
        "sent",
        "started",
        "status",
    )

    def __init__(self, house: Reception, scope: Scope, receive: Any, send: Any) -> None:
        self.house = house
        self.scope = scope
        self.started = time.monotonic()
        self.answered = 0.0  # when the answer began
        self.number = self.lane = 0
        self.method: str = scope.get("method", "GET")
        self._raw = raw_path(scope)
        self.status = 0
        self.sent = 0
        self.failure: BaseException | None = None
        self._receive, self._send = receive, send
        self._received = 0
        self._whole = False  # the request is there in full
        self._complete = False  # the answer is
        self._left = False  # the client has gone, as far as the app is concerned

    @property
    def id(self) -> str:
        return f"{self.house.id_prefix}-{self.number:x}"

    @property
    def path(self) -> str:
        return self._raw.decode("latin-1")

    @property
    def line(self) -> bytes:
        """What the scoreboard shows of it."""
        return b"%b %b" % (self.method.encode(), self._raw)

    async def run(self) -> None:
        """From the first to the last."""
        house = self.house
        house.enter(self)
        try:
            self.scope["state"] = house.state.copy()
            self.scope["prefork_sd.request_id"] = self.id
            if refusal := house.scopes.settle(self.scope):
                await self.refuse(refusal)
                return
            house.worker.hooks.pre_request(house.worker, self)
            await house.app(self.scope, self.receive, self.send)
            self.check()
        except BaseException as error:  # noqa: BLE001 (anything may come out of app code)
            if house.cutting and isinstance(error, asyncio.CancelledError):
                await self.cut(error)
            else:
                await self.fail(error)
        finally:
            house.leave(self)

    def check(self) -> None:
        """The app has returned: raises RuntimeError if it should not have."""
        if not (self._complete or self._left):
            missing = "all of its answer" if self.status else "an answer"
            raise RuntimeError(f"the app returned without {missing}")

    async def fail(self, error: BaseException) -> None:
        """The app failed: a 500 if nothing has left yet, a broken connection otherwise."""
        if self._left and type(error).__name__ in LEFT:
            return
        self.failure = error
        if not self.status:
            await self.refuse(500)
        elif not self._complete:
            self.tear(error)

    async def cut(self, error: BaseException) -> None:
        """There is no time left for it."""
        if not self.status:
            await self.refuse(503)
        elif not self._complete:
            self.tear(error)

    def tear(self, error: BaseException) -> None:
        """Have uvicorn break the connection, without a word in its log."""
        self.house.told = error
        raise error

    async def refuse(self, status: int) -> None:
        """Answer in the app's place, and close, but not before a body that is on its way."""
        body = REASONS[status]
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        if status != 413:
            headers.append(CLOSE)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def receive(self) -> Message:
        """For the app: within its limits, the body of the request."""
        if self._left:
            return {"type": "http.disconnect"}
        if self._whole:
            message: Message = await self._receive()
        else:
            try:
                async with asyncio.timeout(self.house.body_timeout):
                    message = await self._receive()
            except TimeoutError:
                return await self.turn_away(408)
        if message["type"] == "http.disconnect":
            self._left = True
        else:
            self._received += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._received > self.house.body_limit:
                return await self.turn_away(413)
        return message

    async def turn_away(self, status: int) -> Message:
        """The client is at fault: tell it so, and the app that it has gone."""
        if not self.status:
            await self.refuse(status)
        self._left = True
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """For the app: a part of the answer."""
        if self._left:
            return
        house = self.house
        kind = message["type"]
        if kind == "http.response.start":
            house.tell_time()
            ours = [CLOSE] if house.draining or house.no_keepalive else []
            if house.id_header:
                ours.append((house.id_header, self.id.encode()))
            if ours:
                message = {**message, "headers": [*message.get("headers", ()), *ours]}
            await self._send(message)
            self.status, self.answered = message["status"], time.monotonic()
            return
        await self._send(message)
        if kind == "http.response.body":
            if self.method != "HEAD":
                self.sent += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)


class Conversation(Exchange):
    """A WebSocket, from its handshake to its end."""

    __slots__ = ("_closing",)

    def __init__(self, house: Reception, scope: Scope, receive: Any, send: Any) -> None:
        super().__init__(house, scope, receive, send)
        self._closing = False  # we are, because the service restarts

    def check(self) -> None:
        """What is missing, uvicorn says."""

    async def refuse(self, status: int) -> None:
        """Before its handshake: uvicorn makes it a 403."""
        self.status = status
        await self._send({"type": "websocket.close"})

    async def fail(self, error: BaseException) -> None:
        if self._closing or (self._left and type(error).__name__ in LEFT):
            return
        self.failure = error
        self.status = self.status or 500
        self.tear(error)

    async def close(self) -> None:
        """The service restarts: say so to the client, and then to the app."""
        if self.status == 101 and not (self._complete or self._closing):
            self._closing = True
            await self._send({"type": "websocket.close", "code": RESTART})

    async def receive(self) -> Message:
        message: Message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._left = True
            if self._closing:
                message = {**message, "code": RESTART}
        return message

    async def send(self, message: Message) -> None:
        if self._closing:
            raise ServiceRestartsError("the service restarts")
        await self._send(message)
        match message["type"]:
            case "websocket.accept":
                self.status, self.answered = 101, time.monotonic()
                if self.house.draining:
                    await self.close()
            case "websocket.close":
                self._complete = True
                self.status = self.status or 403
            case "websocket.http.response.start":
                self.status = message["status"]
            case "websocket.send":
                self.sent += len(message.get("bytes") or message.get("text") or b"")


class Silence(logging.Filter):
    """Keeps back what uvicorn has to say of errors that are on record, and of clients' nonsense."""

    def __init__(self, house: Reception) -> None:
        super().__init__()
        self._house = house

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is self._house.told is not None:
            self._house.told = None  # nor keep its frames
            return False
        return not record.getMessage().startswith("Invalid HTTP request")
