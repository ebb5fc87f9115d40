"""The loop of an HTTP worker: one epoll, whole requests in, buffered responses out.

The loop owns every wait on a client, and none on the app.
"""

import time
from math import inf

from prefork_sd import http1
from prefork_sd.forwarded import Trust
from prefork_sd.workers.accept import FOREVER, GONE, READ, WRITE
from prefork_sd.workers.calls import CallingWorker
from prefork_sd.workers.connection import (
    BODY,
    CLOSED,
    HEAD,
    LINGERING,
    RUNNING,
    SENDING,
    Connection,
)

LINGER = 1.0  # seconds that an idle client may still send something after a drain has begun
SHARE = 0.005  # seconds for what one client has sent at once before others have their turn
# bytes of free memory that malloc(3) keeps; with its usual 128 KiB, it gives what an upload took
# back to the kernel, and gets it again by page faults that cost more than the upload
KEPT = 8 << 20
FRESH = 0.05  # seconds for which a heartbeat is not renewed
SPELL = 0.002  # seconds that a turn is to take, if that is more than a few events
FEW, MANY = 4, 1024
NAP = 0.1  # seconds that a worker waits for the next request before it takes itself for idle
IDLE_BEAT = 30.0  # seconds between heartbeats of a worker that has nothing to do


class LoopWorker(CallingWorker):
    """Reads, writes and times out."""

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
        self.prepare_to_accept(trust)
        self.prepare_to_call(trust)
        self.postponed: list[Connection] = []  # they have sent more than their share
        self.draining = False
        self.most = MANY  # events that are dealt with in one turn
        self.body_timeout = cfg.body_timeout or FOREVER
        self.beat = min(IDLE_BEAT, self.allowance)
        self.nap = min(NAP, self.allowance / 2)
        self.renewal = 0.0  # when (monotonic seconds) the heartbeat is due again
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
        events = self.poll.poll(max(0.0, min(self.next_event() - now, rest)), self.most)
        heard = self.now = time.monotonic()
        if events:
            if heard > self.renewal:
                self.renew(heard)
            self.deal(events)
            self.reckon(len(events), self.now - heard)
        if self.postponed:
            self.resume()
        self.expire(heard)
        self.tmp.publish()
        if not self.alive:
            if not self.draining:
                self.begin_drain()
            return bool(self.connections)
        return True

    def reckon(self, count: int, seconds: float) -> None:
        """So many events have taken so long: how many are to be dealt with in the next turn.

        Who asks again while others are answered has to wait for all that were heard before; epoll
        hands out what is ready in turns, so that fewer at a time leave nobody out.
        """
        if seconds > SPELL:
            self.most = max(FEW, int(count * SPELL / seconds))
        elif self.most < MANY:
            self.most *= 2

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
