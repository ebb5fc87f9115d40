"""The `sync` worker: one request at a time, the app called inline by the loop."""

import time
from types import FrameType

from prefork_sd.workers.accept import WRITE
from prefork_sd.workers.connection import Connection, Request
from prefork_sd.workers.shortway import ShortWayWorker


class SyncWorker(ShortWayWorker):
    """The fastest way for an app that computes; slow clients still cost it nothing."""

    inline = True

    def handle_exit(self, signum: int, frame: FrameType | None) -> None:
        super().handle_exit(signum, frame)
        if self.in_call:
            self.drain()  # true already: the loop looks at `alive` before it accepts

    def execute(self, connection: Connection, request: Request) -> None:
        self.in_call = True
        begun = request.started = time.monotonic()
        if begun > self.renewal:
            self.renew(begun)
        self.call_app(connection, request, 0)
        self.in_call = False
        self.judge(connection, request, time.monotonic())

    def produce(self, connection: Connection) -> None:
        """One round, sent in the next turn, so that a long response does not shut out others."""
        self.in_call = True
        self.renew(time.monotonic())
        self.call_again(connection, 0)
        self.stay_alone(connection)
        self.in_call = False
        self.now = time.monotonic()
        self.timers.set(connection, self.now + self.send_timeout)
        self.watch(connection, WRITE)
