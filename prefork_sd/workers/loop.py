"""The loop of an HTTP worker: one epoll, whole requests in, buffered responses out.

The loop owns every wait on a client; `execute` and `produce`, which a way to serve provides, own
the waits on the app.
"""

import secrets
import time
from collections.abc import Iterator
from itertools import chain, count
from math import inf

from prefork_sd import http1, wsgi
from prefork_sd.applog import REQUEST
from prefork_sd.forwarded import Forwarded, Trust
from prefork_sd.hooks import nothing
from prefork_sd.journal import Event
from prefork_sd.workers.accept import FOREVER, GONE, READ, WRITE, AcceptingWorker
from prefork_sd.workers.access import AccessLog
from prefork_sd.workers.connection import (
    BODY,
    CLOSED,
    HEAD,
    LINGERING,
    RUNNING,
    SENDING,
    UNWATCHED,
    Connection,
    Request,
)
from prefork_sd.workers.wear import Wear

LINGER = 1.0  # seconds that an idle client may still send something after a drain has begun
LAST_WORDS = 2.0  # seconds for a refused client to read why
SHARE = 0.005  # seconds for what one client has sent at once before others have their turn
ROUND = 10.0  # seconds that a response without an end is made before others have the app
DISK = 1 << 30  # bytes of a response that wait in a file
# bytes of free memory that malloc(3) keeps; with its usual 128 KiB, it gives what an upload took
# back to the kernel, and gets it again by page faults that cost more than the upload
KEPT = 8 << 20
FRESH = 0.05  # seconds for which a heartbeat is not renewed
NAP = 0.1  # seconds that a worker waits for the next request before it takes itself for idle
IDLE_BEAT = 30.0  # seconds between heartbeats of a worker that has nothing to do


TWO_DIGITS = tuple(f"{number:02x}" for number in range(256))


def request_ids() -> Iterator[str]:
    """Numbers in hex, behind what no other worker has."""
    prefix = f"{secrets.token_hex(5)}-"
    return chain.from_iterable(map(f"{prefix}{high:x}".__add__, TWO_DIGITS) for high in count())


class LoopWorker(AcceptingWorker):
    """Reads, writes and times out; what runs the app is left open."""

    holding = False  # whether responses wait for others to leave with them

    def run(self) -> None:
        self.prepare()
        while self.turn():
            if self.requests >= self.refork_at:
                self.refork_at = inf
                self.refork()
        self.finish()

    def prepare(self) -> None:
        """Set up what the loop needs."""
        bytes(KEPT // 2)  # mallopt(3), M_MMAP_THRESHOLD: to free a block of that size has it adapt
        cfg = self.cfg
        trust = Trust(cfg.forwarded_allow_ips)
        told = bool(cfg.forwarded_allow_ips and cfg.forwarded_headers)
        self.forwarded = Forwarded(trust, cfg.forwarded_headers) if told else None
        self.postponed: list[Connection] = []  # they have sent more than their share
        self.draining = False
        self.body_timeout = cfg.body_timeout or FOREVER
        self.send_timeout = cfg.send_timeout or FOREVER
        self.wear = Wear(cfg, time.monotonic())
        self.wears = not self.wear.none
        self.keepalive = cfg.keepalive
        self.ids = request_ids()
        self.id_header = cfg.request_id_header.encode()
        self.respond = wsgi.TaggedResponse if self.id_header else wsgi.Response
        self.access = AccessLog(cfg, self.log, self.fields)
        self.allowance = self.timeout or inf  # seconds that the app may be silent
        self.beat = min(IDLE_BEAT, self.allowance)
        self.nap = min(NAP, self.allowance / 2)
        seconds = min(ROUND, self.allowance / 2)
        self.bounds = wsgi.Bounds(max(1, cfg.response_buffer), DISK, seconds)
        self.now = 0.0  # monotonic seconds, when the loop or the app has just waited
        self.renewal = 0.0  # when (monotonic seconds) the heartbeat is due again
        self.prepare_to_accept(trust)
        self.poll.register(self.signals.fileno(), READ)
        self.start_accepting()

    def turn(self) -> bool:
        """Wait for something and deal with it; False when everything is done after a drain."""
        now = time.monotonic()
        if now < self.renewal:  # what was promised allows for a nap
            rest = self.nap
        else:
            rest = self.beat
            self.tmp.promise(now + rest + self.allowance)
            self.renewal = 0.0
        events = self.poll.poll(max(0.0, min(self.next_event() - now, rest)))
        heard = self.now = time.monotonic()
        if events:
            if heard > self.renewal:
                self.renew(heard)
            self.deal(events)
        if self.postponed:
            self.resume()
        self.expire(heard)
        self.tmp.publish()
        if not self.alive:
            if not self.draining:
                self.begin_drain()
            return bool(self.connections)
        return True

    def deal(self, events: list[tuple[int, int]]) -> None:
        """Deal with what epoll has reported."""
        for fd, event in events:
            self.on_event(fd, event)

    def on_event(self, fd: int, event: int) -> None:
        """Something happened on a descriptor."""
        if connection := self.connections.get(fd):
            if connection.phase is HEAD:  # nearly always
                self.on_data(connection)
            else:
                self.on_connection(connection, event)
        elif listener := self.listening.get(fd):
            if self.alive:
                self.accept(listener)
        elif fd == self.signals.fileno():
            self.on_wake()

    def renew(self, now: float) -> None:
        """The heartbeat: the app is waited for from now on, or a little longer."""
        self.renewal = now + FRESH
        self.tmp.promise(now + self.allowance + FRESH)

    def next_event(self) -> float:
        """When something has to be done though nothing was heard (monotonic seconds)."""
        if self.postponed:
            return 0.0
        return min(self.timers.next(), self.accept_again, self.wear.until)

    def finish(self) -> None:
        """After the last turn."""
        self.poll.close()

    def abandon(self) -> None:
        super().abandon()
        self.poll.close()
        for connection in self.connections.values():
            connection.let_go()

    def on_wake(self) -> None:
        """A signal came, or a thread of ours has news."""
        for _ in self.signals.take():
            pass
        if self.nudged:
            self.nudged = False
            for listener in list(self.listening.values()):
                if self.alive and self.accepting:
                    self.accept(listener)

    # ---- one connection

    def on_connection(self, connection: Connection, event: int) -> None:
        """Something happened on a client's socket."""
        phase = connection.phase
        if phase is HEAD or phase is BODY:
            self.on_data(connection)
        elif phase is SENDING:
            if event & GONE:
                self.drop(connection)
            elif event & WRITE:
                self.advance(connection)
                if connection.phase is HEAD:
                    self.serve(connection)
            else:
                self.watch(connection, WRITE)
        elif phase is LINGERING:
            if event & GONE or connection.discard():
                self.drop(connection)
        elif event & GONE:  # the app still runs: it will be told when it is done
            self.unwatch(connection)
        else:
            self.watch(connection, 0)

    def watch(self, connection: Connection, events: int) -> None:
        """Have epoll watch for just that. A hang-up is always reported, until `unwatch`."""
        before = connection.events
        try:
            if before == UNWATCHED:
                self.poll.register(connection.fd, events)
            elif before != events:
                self.poll.modify(connection.fd, events)
            connection.events = events
        except OSError as error:  # no memory, or the user may watch no more: epoll_ctl(2)
            self.log.error("cannot watch a connection: %s", error, extra=self.fields())
            if connection.phase is not RUNNING:
                self.drop(connection)

    def unwatch(self, connection: Connection) -> None:
        """Have epoll forget it."""
        if connection.events != UNWATCHED:
            connection.events = UNWATCHED
            self.poll.unregister(connection.fd)

    def on_data(self, connection: Connection) -> None:
        """Read, and serve every request that is there in full."""
        try:
            if connection.receive():
                self.serve(connection)
            else:
                self.watch(connection, connection.to_read)
        except OSError:
            self.drop(connection)
        except http1.BadRequest as error:
            self.refuse(connection, error)

    def serve(self, connection: Connection) -> None:
        """Serve what is whole in the buffer, in order, then wait for more."""
        until = 0.0
        while connection.phase is HEAD or connection.phase is BODY:
            try:
                request = connection.next_request()
            except http1.BadRequest as error:
                self.refuse(connection, error)
                return
            except OSError as error:
                self.log.error("cannot keep a request's body: %s", error, extra=self.fields())
                self.refuse(connection, http1.BadRequest(503, "no room for the body"))
                return
            if request is None:
                self.await_more(connection)
                return
            self.execute(connection, request)
            if connection.phase is HEAD:
                if not connection.buffer:
                    self.await_more(connection)
                    return
                now = time.monotonic()
                until = until or now + SHARE
                if now > until:
                    self.postpone(connection)

    def postpone(self, connection: Connection) -> None:
        """Let others have their turn before more of that client is served."""
        connection.phase = RUNNING  # and nothing more of it is read
        self.postponed.append(connection)

    def resume(self) -> None:
        """Go on with those who have let others have their turn."""
        postponed, self.postponed = self.postponed, []
        for connection in postponed:
            connection.phase = HEAD
            self.serve(connection)

    def await_more(self, connection: Connection) -> None:
        """The client has to send something: nothing, or the rest of a request."""
        if connection.ended:
            self.drop(connection)
            return
        now = self.now
        if connection.phase is BODY:
            self.timers.set(connection, now + self.body_timeout)
        elif connection.served and not connection.buffer:
            connection.idle = True
            self.timers.set(connection, now + (self.keepalive if self.alive else LINGER))
        elif connection.idle:  # the first bytes of the next request
            connection.idle = False
            self.timers.set(connection, now + self.head_timeout)
        if connection.events != READ:
            self.watch(connection, READ)

    def refuse(self, connection: Connection, error: http1.BadRequest) -> None:
        """Say what was wrong and close; linger so that the answer is not lost to a reset."""
        self.log.debug("refused a request: %s", error, extra=self.fields(Event.REQUEST))
        connection.refuse(http1.error_response(error.status, str(error)))
        self.linger(connection)

    def linger(self, connection: Connection) -> None:
        connection.phase = LINGERING
        self.timers.set(connection, time.monotonic() + LAST_WORDS)
        if connection.ended:
            self.drop(connection)
        else:
            self.watch(connection, READ)

    def drop(self, connection: Connection) -> None:
        """The connection is over, whatever was going on."""
        if connection.request is not None:
            self.renew(time.monotonic())  # what the app does at the end of each may follow another
            self.complete(connection)
        self.forget(connection)
        if connection.response is not None:  # not all of it has left: it is not to look whole
            connection.abort()
            connection.response = None  # which knows the connection
        else:
            connection.close()

    def forget(self, connection: Connection) -> None:
        """Have nothing to do with it any more; there is room for another one."""
        self.unwatch(connection)  # closing is not enough where the app has forked
        del self.connections[connection.fd]
        self.timers.forget(connection)
        if not self.accepting and self.alive and self.accept_again == inf:
            self.start_accepting()

    # ---- requests

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
        """Send what is there; then have more produced, wait for the client, or finish."""
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

    # ---- time and the end

    def expire(self, now: float) -> None:
        """Deal with the clients that took too long; `now` is when all were listened to.

        What the app has taken since then is not their fault.
        """
        if now >= self.wear.until:
            self.wear.until = inf
            self.tire()
        if now >= self.accept_again and self.alive:
            self.start_accepting()
        if now < self.timers.next():
            return
        for connection in self.timers.expired(now):
            assert isinstance(connection, Connection)
            if connection.phase is RUNNING:
                continue
            begun = connection.phase is BODY or (connection.phase is HEAD and connection.buffer)
            if begun:
                self.refuse(connection, http1.BadRequest(408, "the request took too long"))
            elif connection.phase is not CLOSED:
                self.drop(connection)

    def begin_drain(self) -> None:
        """Accept nothing more, say so, and give idle clients a moment."""
        self.draining = True
        self.stop_accepting()
        self.accept_again = inf
        for listener in self.sockets:
            listener.sock.close()
        self.drain()
        deadline = time.monotonic() + LINGER
        for connection in list(self.connections.values()):
            if connection.phase is HEAD and not connection.buffer:
                self.timers.set(connection, min(connection.deadline, deadline))
