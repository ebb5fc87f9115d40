"""The requests of a worker's clients: the app is called, and what it answers is sent."""

import secrets
import time
from collections.abc import Iterator
from itertools import chain, count
from math import inf

from prefork_sd import http1, wsgi
from prefork_sd.applog import REQUEST
from prefork_sd.forwarded import Forwarded, Trust
from prefork_sd.hooks import nothing
from prefork_sd.workers.accept import FOREVER, WRITE
from prefork_sd.workers.access import AccessLog
from prefork_sd.workers.clients import ClientsWorker
from prefork_sd.workers.connection import HEAD, SENDING, Connection, Request
from prefork_sd.workers.wear import Wear

ROUND = 10.0  # seconds that a response without an end is made before others have the app
DISK = 1 << 30  # bytes of a response that wait in a file

TWO_DIGITS = tuple(f"{number:02x}" for number in range(256))


def request_ids() -> Iterator[str]:
    """Numbers in hex, behind what no other worker has."""
    prefix = f"{secrets.token_hex(5)}-"
    return chain.from_iterable(map(f"{prefix}{high:x}".__add__, TWO_DIGITS) for high in count())


class CallingWorker(ClientsWorker):
    """What runs the app is left open: `execute` and `produce` own the waits on it."""

    holding = False  # whether responses wait for others to leave with them

    def prepare_to_call(self, trust: Trust) -> None:
        """Set up what it needs; `trust` is in the proxies that may speak for a client."""
        cfg = self.cfg
        told = bool(cfg.forwarded_allow_ips and cfg.forwarded_headers)
        self.forwarded = Forwarded(trust, cfg.forwarded_headers) if told else None
        self.keepalive = cfg.keepalive
        self.send_timeout = cfg.send_timeout or FOREVER
        self.ids = request_ids()
        self.id_header = cfg.request_id_header.encode()
        self.respond = wsgi.TaggedResponse if self.id_header else wsgi.Response
        self.access = AccessLog(cfg, self.log, self.fields)
        self.wear = Wear(cfg, time.monotonic())
        self.wears = not self.wear.none
        self.allowance = self.timeout or inf  # seconds that the app may be silent
        seconds = min(ROUND, self.allowance / 2)
        self.bounds = wsgi.Bounds(max(1, cfg.response_buffer), DISK, seconds)
        self.now = 0.0  # monotonic seconds, when the loop or the app has just waited

    def execute(self, connection: Connection, request: Request) -> None:
        """Run the app for a request; when it has answered, or some of it, call `advance`."""
        raise NotImplementedError

    def produce(self, connection: Connection) -> None:
        """Take more of a response from the app, then call `advance`."""
        raise NotImplementedError

    def call_app(self, connection: Connection, request: Request, lane: int) -> None:
        """In the app's slot, since `request.started`: call it, and take what it yields at once."""
        head = request.head
        now = request.started
        response = connection.response = self.response_to(head, connection, now)
        connection.request = request
        request.id = next(self.ids)
        if self.id_header:
            assert isinstance(response, wsgi.TaggedResponse)
            response.tag(self.id_header, request.id)
        try:
            environ = request.environ = wsgi.make_environ(
                connection.base, connection.remote, head, request.body
            )
            environ["wsgi.early_hints"] = response.early_hints
            environ["PREFORK_SD_REQUEST_ID"] = request.id
            if self.forwarded is not None:
                self.forwarded.apply(environ)
        except Exception as error:  # noqa: BLE001 (one request must not end the worker)
            response.fail(error)
            return
        self.tmp.begin(lane, head.raw, now)
        REQUEST.set(request)
        if self.hooks.pre_request is not nothing:
            self.hooks.pre_request(self, request)
        response.begin(self.wsgi, environ)
        REQUEST.set(None)
        self.tmp.end(lane)

    def response_to(self, head: http1.Head, client: wsgi.Client, now: float) -> wsgi.Response:
        """A response that is made from now on (monotonic seconds)."""
        keep_alive = head.keep_alive and self.alive and self.keepalive > 0
        patience = now + self.patience
        return self.respond(head, client, keep_alive, self.bounds, patience, self.holding)

    def call_again(self, connection: Connection, lane: int) -> None:
        """In the app's slot: take more of what it yields."""
        response = connection.response
        assert response is not None
        self.tmp.begin(lane, response.head.raw, time.monotonic())
        REQUEST.set(connection.request)
        response.produce()
        REQUEST.set(None)
        self.tmp.end(lane)

    def advance(self, connection: Connection) -> None:
        """Send what is there; then have more produced, wait for the client, or finish.

        Where the connection is in HEAD afterwards, `serve` or `await_more` is to follow.
        """
        response = connection.response
        assert response is not None
        try:
            flushed = connection.send()
        except OSError as error:
            self.log.debug("the client left: %s", error, extra=self.fields())
            self.drop(connection)
            return
        if flushed and response.done:
            if connection.request is not None:
                self.complete(connection)
            self.turn_around(connection)
            return
        connection.phase = SENDING
        self.timers.set(connection, time.monotonic() + self.send_timeout)
        if flushed:
            self.produce(connection)
        else:
            self.watch(connection, WRITE)

    def complete(self, connection: Connection) -> None:
        """A request is over: close what the app gave, count, and put it on record if asked."""
        response, request = connection.response, connection.request
        assert response is not None and request is not None  # noqa: PT018
        connection.request = None
        response.finish()
        if request.head.length or request.head.chunked:
            request.close()
        if self.hooks.post_request is not nothing:
            self.renew(time.monotonic())  # the hooks of many may follow each other
            self.hooks.post_request(self, request, request.environ, response)
        self.requests += 1
        ended = request.ended
        if not ended:
            ended = self.now = time.monotonic()
        status, duration = response.status, ended - request.started
        self.tmp.observe(status, duration, response.sent)
        if self.access.wants(status, duration, response.failure):
            remote = (request.environ or {}).get("REMOTE_ADDR", "")
            self.access.record(remote, request, response, duration)
            response.failure = None  # its traceback knows the response
        if self.wears and self.wear.worn(self.requests):
            self.tire()

    def turn_around(self, connection: Connection) -> None:
        """The response is on its way: the next request of that client, or the end."""
        response = connection.response
        assert response is not None
        connection.response = None
        connection.served += 1
        if response.broken:
            self.forget(connection)
            connection.abort()
        elif not response.keep_alive:
            # what it may still send would make of close() a reset that takes the response away
            if connection.buffer or response.head.keep_alive:
                connection.refuse(b"")
                self.linger(connection)
            else:
                self.drop(connection)
        else:
            connection.phase = HEAD
            connection.idle = True
