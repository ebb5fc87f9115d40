"""The loop of an HTTP worker: one epoll, whole requests in, buffered responses out.

The loop owns every wait on a client; `execute` and `produce`, which a way to serve provides, own
the waits on the app.
"""

import errno
import os
import secrets
import select
import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from prefork_sd import http1, process, wsgi
from prefork_sd.applog import REQUEST
from prefork_sd.forwarded import Forwarded, Trust
from prefork_sd.hooks import nothing
from prefork_sd.journal import Event
from prefork_sd.listeners import HTTPS, Listener
from prefork_sd.workers.access import AccessLog
from prefork_sd.workers.base import Worker
from prefork_sd.workers.connection import UNWATCHED, Connection, Phase, Request, limits_of
from prefork_sd.workers.timers import Timers
from prefork_sd.workers.wear import Wear

LINGER = 1.0  # seconds that an idle client may still send something after a drain has begun
LAST_WORDS = 2.0  # seconds for a refused client to read why
ACCEPT_MOST, ACCEPT_FOR = 32, 0.002  # connections and seconds before the others have their turn
PAUSE = 0.5  # seconds without accepting when no file descriptor is to be had
FOREVER = 1e8  # seconds, for a limit that is off
GLANCE = 0.001  # seconds for the first bytes of a client, before another one is accepted
PATIENCE = 0.005  # seconds that an app called inline may take if its client is to be kept
IDLE_BEAT = 30.0  # seconds between heartbeats of a worker that has nothing to do

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
GONE = select.EPOLLHUP | select.EPOLLERR


class LoopWorker(Worker):
    """Accepts, reads, writes and times out; what runs the app is left open."""

    multithread = False

    def run(self) -> None:
        self.prepare()
        while self.turn():
            if self.requests >= self.refork_at:
                self.refork_at = inf
                self.refork()
        self.finish()

    def prepare(self) -> None:
        """Set up what the loop needs."""
        cfg = self.cfg
        self.limits = limits_of(cfg)
        trust = Trust(cfg.forwarded_allow_ips)
        told = bool(cfg.forwarded_allow_ips and cfg.forwarded_headers)
        self.forwarded = Forwarded(trust, cfg.forwarded_headers) if told else None
        self.proxied = trust if cfg.proxy_protocol else None
        self.timers = Timers()
        self.connections: dict[int, Connection] = {}
        self.listening: dict[int, Listener] = {}
        self.bases = {one.sock.fileno(): self.base_of(one) for one in self.sockets}
        self.kinds = {one.sock.fileno(): self.kind_of(one) for one in self.sockets}
        self.accepting = False
        self.draining = False
        self.accept_again = inf
        self.errors = 0
        self.sent = 0
        self.head_timeout = cfg.head_timeout or FOREVER
        self.body_timeout = cfg.body_timeout or FOREVER
        self.send_timeout = cfg.send_timeout or FOREVER
        self.wear = Wear(cfg, time.monotonic())
        self.wears = not self.wear.none
        self.keeps = cfg.keepalive > 0
        self.room = max(1, cfg.response_buffer)
        self.called = 0
        self.id_prefix = f"{secrets.token_hex(5)}-"
        self.access = AccessLog(cfg, self.log, self.fields)
        self.allowance = self.timeout or inf  # seconds that the app may be silent
        # while this worker calls a slow app, its clients would better be with another one
        self.patience = PATIENCE if self.inline and cfg.workers != 1 else inf
        self.beat = min(IDLE_BEAT, self.allowance)
        self.poll = select.epoll()
        self.poll.register(self.signals.fileno(), READ)
        self.start_accepting()

    def turn(self) -> bool:
        """Wait for something and deal with it; False when everything is done after a drain."""
        now = time.monotonic()
        wait = min(self.next_event(), now + self.beat) - now
        self.tmp.promise(now + self.beat + self.allowance)
        events = self.poll.poll(max(wait, 0.0))
        heard = time.monotonic()
        self.tmp.promise(heard + self.allowance)
        for fd, event in events:
            if connection := self.connections.get(fd):
                self.on_connection(connection, event)
            elif listener := self.listening.get(fd):
                if self.alive:
                    self.accept(listener)
            elif fd == self.signals.fileno():
                self.on_wake()
        self.expire(heard)
        if not self.alive:
            if not self.draining:
                self.begin_drain()
            return bool(self.connections)
        return True

    def next_event(self) -> float:
        """When something has to be done though nothing was heard (monotonic seconds)."""
        return min(self.timers.next(), self.accept_again, self.wear.until)

    def finish(self) -> None:
        """After the last turn."""
        self.poll.close()

    def abandon(self) -> None:
        super().abandon()
        self.poll.close()
        process.close(self.connections)  # without a word to the clients, who are not ours

    def on_wake(self) -> None:
        """A signal came, or a thread of ours has news."""
        for _ in self.signals.take():
            pass
        if self.nudged:
            self.nudged = False
            for listener in list(self.listening.values()):
                if self.alive and self.accepting:
                    self.accept(listener)

    # ---- accept

    def start_accepting(self) -> None:
        """Wait for new connections: of all the workers that do, the kernel wakes one."""
        self.accepting, self.accept_again = True, inf
        for listener in self.sockets:
            self.listening[listener.sock.fileno()] = listener
            self.poll.register(listener.sock.fileno(), READ | select.EPOLLEXCLUSIVE)

    def stop_accepting(self) -> None:
        if self.accepting:
            self.accepting = False
            for fd in self.listening:
                self.poll.unregister(fd)
            self.listening.clear()

    def accept(self, listener: Listener) -> None:
        """Take connections while they come; their requests have often come with them."""
        until = time.monotonic() + ACCEPT_FOR
        for _ in range(ACCEPT_MOST):
            try:
                fd, address = listener.sock._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self.cannot_accept(error)
                return
            os.set_blocking(fd, False)
            now = time.monotonic()
            served = self.welcome(fd, listener, address, now)
            if not served or now > until or not self.alive or not self.accepting:
                return

    def welcome(self, fd: int, listener: Listener, address: Any, now: float) -> bool:
        """A connection of its own for a client; True if it is served already."""
        remote = (address[0], str(address[1])) if type(address) is tuple else ("", "")
        listening = listener.sock.fileno()
        connection = self.kinds[listening](
            fd,
            self.bases[listening],
            remote,
            self.limits,
            body_buffer=self.cfg.body_buffer,
            send_timeout=self.send_timeout,
        )
        if self.proxied is not None:
            connection.announced = not self.proxied(remote[0])
        self.connections[fd] = connection
        if len(self.connections) >= self.cfg.worker_connections:
            self.stop_accepting()
        self.on_data(connection)
        if self.patience < inf and connection.silent() and connection.wait_for_data(GLANCE):
            self.on_data(connection)
        if connection.filed == 0:  # it is still with us, and has to say something
            self.timers.set(connection, now + self.head_timeout)
        return connection.served > 0

    def cannot_accept(self, error: OSError) -> None:
        """Out of descriptors or memory: wait a little, and let others accept.

        What else may happen is the fault of that connection or of the network: accept(2).
        """
        if error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
            raise error
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            return
        self.log.error("cannot accept a connection: %s", error, extra=self.fields())
        self.stop_accepting()
        self.accept_again = time.monotonic() + PAUSE

    def base_of(self, listener: Listener) -> wsgi.Environ:
        return wsgi.base_environ(
            server_name=listener.server_name,
            server_port=listener.server_port,
            scheme="https" if listener.name == HTTPS else "http",
            script_name=self.cfg.script_name,
            multithread=self.multithread,
            multiprocess=True,
        )

    def kind_of(self, listener: Listener) -> Callable[..., Connection]:
        """What to make of a client of that listener."""
        if listener.name != HTTPS:
            return Connection
        assert self.tls is not None
        from prefork_sd.workers.tlsconnection import TlsConnection  # only where ssl is loaded

        return partial(TlsConnection, self.tls)

    # ---- one connection

    def on_connection(self, connection: Connection, event: int) -> None:
        """Something happened on a client's socket."""
        phase = connection.phase
        if phase is Phase.HEAD or phase is Phase.BODY:
            self.on_data(connection)
        elif phase is Phase.SENDING:
            if event & GONE:
                self.drop(connection)
            elif event & WRITE:
                self.advance(connection)
                if connection.phase is Phase.HEAD:
                    self.serve(connection)
            else:
                self.watch(connection, WRITE)
        elif phase is Phase.LINGERING:
            if event & GONE or connection.discard():
                self.drop(connection)
        elif event & GONE:  # the app still runs: it will be told when it is done
            self.unwatch(connection)
        else:
            self.watch(connection, 0)

    def watch(self, connection: Connection, events: int) -> None:
        """Have epoll watch for just that. A hang-up is always reported, until `unwatch`."""
        before, connection.events = connection.events, events
        if before == UNWATCHED:
            self.poll.register(connection.fd, events)
        elif before != events:
            self.poll.modify(connection.fd, events)

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
        while connection.phase is Phase.HEAD or connection.phase is Phase.BODY:
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

    def await_more(self, connection: Connection) -> None:
        """The client has to send something: nothing, or the rest of a request."""
        if connection.ended:
            self.drop(connection)
            return
        now = time.monotonic()
        if connection.phase is Phase.BODY:
            self.timers.set(connection, now + self.body_timeout)
        elif connection.served and not connection.buffer:
            connection.idle = True
            self.timers.set(connection, now + (self.cfg.keepalive if self.alive else LINGER))
        elif connection.idle:  # the first bytes of the next request
            connection.idle = False
            self.timers.set(connection, now + self.head_timeout)
        self.watch(connection, READ)

    def refuse(self, connection: Connection, error: http1.BadRequest) -> None:
        """Say what was wrong and close; linger so that the answer is not lost to a reset."""
        self.log.debug("refused a request: %s", error, extra=self.fields(Event.REQUEST))
        connection.refuse(http1.error_response(error.status, str(error)))
        self.linger(connection)

    def linger(self, connection: Connection) -> None:
        connection.phase = Phase.LINGERING
        self.timers.set(connection, time.monotonic() + LAST_WORDS)
        if connection.ended:
            self.drop(connection)
        else:
            self.watch(connection, READ)

    def drop(self, connection: Connection) -> None:
        """The connection is over, whatever was going on."""
        if connection.request is not None:
            self.complete(connection)
        self.forget(connection)
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
        """In the app's slot: call it, and take what it yields at once."""
        head = request.head
        now = request.started = time.monotonic()
        response = wsgi.Response(
            head,
            connection,
            keep_alive=head.keep_alive and self.alive and self.keeps,
            room=self.room,
            patience=now + self.patience,
        )
        connection.response = response
        environ = request.environ = wsgi.make_environ(
            connection.base, connection.remote, head, request.body
        )
        environ["wsgi.early_hints"] = response.early_hints
        self.called += 1
        environ["PREFORK_SD_REQUEST_ID"] = request.id = f"{self.id_prefix}{self.called:x}"
        if self.forwarded is not None:
            self.forwarded.apply(environ)
        connection.request = request
        self.tmp.begin(lane, head.raw, now)
        REQUEST.set(request)
        if self.hooks.pre_request is not nothing:
            self.hooks.pre_request(self, request)
        response.begin(self.wsgi, environ)
        REQUEST.set(None)
        self.tmp.end(lane)

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
        if not flushed or not response.done:
            connection.phase = Phase.SENDING
            self.timers.set(connection, time.monotonic() + self.send_timeout)
        if not flushed:
            self.watch(connection, WRITE)
        elif not response.done:
            self.produce(connection)
        else:
            self.complete(connection)
            self.turn_around(connection)

    def complete(self, connection: Connection) -> None:
        """A request is over: close what the app gave, count, and put it on record if asked."""
        response, request = connection.response, connection.request
        assert response is not None and request is not None  # noqa: PT018
        connection.request = None
        response.finish()
        request.body.close()
        if self.hooks.post_request is not nothing:
            self.hooks.post_request(self, request, request.environ, response)
        self.requests += 1
        self.sent += response.sent
        failed = response.status >= 500
        self.errors += failed
        self.tmp.count(self.requests, self.errors, self.sent)
        duration = time.monotonic() - request.started
        self.tmp.observe(response.status, duration)
        if self.access.wants(response, duration):
            remote = (request.environ or {}).get("REMOTE_ADDR", "")
            self.access.record(remote, request, response, duration)
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
            connection.phase = Phase.HEAD
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
        for connection in self.timers.expired(now):
            assert isinstance(connection, Connection)
            if connection.phase is Phase.RUNNING:
                continue
            begun = connection.phase is Phase.BODY or (
                connection.phase is Phase.HEAD and connection.buffer
            )
            if begun:
                self.refuse(connection, http1.BadRequest(408, "the request took too long"))
            elif connection.phase is not Phase.CLOSED:
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
            if connection.phase is Phase.HEAD and not connection.buffer:
                self.timers.set(connection, min(connection.deadline, deadline))
