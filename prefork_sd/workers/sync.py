"""The `sync` worker: one request at a time, the app called inline by the loop."""

import time
from types import FrameType

from prefork_sd.workers.accept import WRITE
from prefork_sd.workers.connection import HEAD, SENDING, Connection, Request
from prefork_sd.workers.loop import LoopWorker

QUICK = 0.0005  # seconds that a call of a quick app takes at most
PROVEN = 200  # quick calls in a row that make an app a quick one
TOGETHER = 0.002  # seconds that a response may wait for the next ones


class SyncWorker(LoopWorker):
    """The fastest way for an app that computes; slow clients still cost it nothing.

    The responses of a quick app leave together at the end of a turn: who gets many of them (a
    proxy on this machine) is woken up once. The first slow call ends that, for itself and until the
    app has proven quick again.
    """

    inline = True
    in_call = False

    def prepare(self) -> None:
        self.unsent: list[Connection] = []  # their responses wait for others
        self.sent: list[Connection] = []  # and these have left in this turn
        self.send_by = 0.0  # monotonic seconds
        self.quick = 0  # quick calls in a row
        super().prepare()

    def run(self) -> None:
        try:
            super().run()
        except BaseException:
            self.point_out()
            raise

    def handle_exit(self, signum: int, frame: FrameType | None) -> None:
        super().handle_exit(signum, frame)
        if self.in_call:
            self.drain()  # true already: the loop looks at `alive` before it accepts

    def point_out(self) -> None:
        """What was answered before the call that hangs, or the failure, is not lost with it."""
        for connection in self.unsent:
            if connection.phase is SENDING:  # else it has its response, or is about to
                connection.flush()

    def execute(self, connection: Connection, request: Request) -> None:
        self.in_call = True
        begun = request.started = time.monotonic()
        if begun > self.renewal:
            self.renew(begun)
        self.call_app(connection, request, 0)
        self.in_call = False
        ended = self.now = time.monotonic()
        if ended - begun > QUICK:
            self.quick, self.holding = 0, False
        elif not self.holding:
            self.quick += 1
            self.holding = self.quick >= PROVEN
        if not self.holding:
            self.send_all()
            self.advance(connection)
            return
        request.ended = ended
        connection.phase = SENDING
        if not self.unsent:
            self.send_by = ended + TOGETHER
        self.unsent.append(connection)
        if ended > self.send_by:
            self.send_all()

    def send_all(self) -> None:
        """Send what waits for others; it is in `unsent` meanwhile, as a hook may hang."""
        for connection in self.unsent:
            connection.phase = HEAD
            self.advance(connection)
        self.sent += self.unsent
        self.unsent.clear()

    def expire(self, now: float) -> None:
        self.send_all()
        sent, self.sent = self.sent, []
        for connection in sent:
            if connection.phase is HEAD:
                if connection.buffer:
                    self.postpone(connection)
                else:
                    self.await_more(connection)
        super().expire(now)

    def produce(self, connection: Connection) -> None:
        """One round, sent in the next turn, so that a long response does not shut out others."""
        self.in_call = True
        self.renew(time.monotonic())
        self.call_again(connection, 0)
        self.in_call = False
        self.now = time.monotonic()
        self.timers.set(connection, self.now + self.send_timeout)
        self.watch(connection, WRITE)
