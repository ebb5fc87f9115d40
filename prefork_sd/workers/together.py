"""The responses of a quick app leave together, at the end of a turn."""

import os
import sys
from contextlib import suppress

from prefork_sd import http1
from prefork_sd.workers.accept import READ
from prefork_sd.workers.connection import HEAD, SENDING, Connection, Request
from prefork_sd.workers.loop import LoopWorker

QUICK = 0.0005  # seconds that a call of a quick app takes at most
PROVEN = 200  # quick calls in a row that make an app a quick one
TOGETHER = 0.002  # seconds that a response may wait for the next ones
GONE = -1  # bytes that a client has taken who has left


class TogetherWorker(LoopWorker):
    """Calls the app inline; who gets many responses (a proxy on this machine) is woken up once.

    The first slow call ends that, for itself and until the app has proven quick again.

    A response that is a few bytes and nothing else is `held`, and its bytes are `waiting`; while
    they are being sent, `left` says how many of them have left. A signal may find these three of
    different lengths. Any other response waits in `unsent`.
    """

    # each has its own when it serves; there is nothing in them before
    held: list[tuple[Connection, http1.Head]] = []  # noqa: RUF012
    waiting: list[bytes] = []  # noqa: RUF012
    left: list[int] = []  # noqa: RUF012
    unsent: list[Connection] = []  # noqa: RUF012

    def prepare(self) -> None:
        self.held, self.waiting, self.left, self.unsent = [], [], [], []
        self.sent: list[Connection] = []  # and these have left in this turn
        self.send_by = 0.0  # monotonic seconds
        self.quick = 0  # quick calls in a row
        self.limit = QUICK
        super().prepare()

    def run(self) -> None:
        try:
            super().run()
        except BaseException:
            self.point_out()
            raise

    def point_out(self) -> None:
        """What was answered before the call that hangs, or the failure, is not lost with it."""
        held = list(zip(self.held, self.waiting, strict=False))
        for (connection, _), data in held[len(self.left) :]:
            with suppress(OSError):
                os.write(connection.fd, data)
        for connection in self.unsent:
            if connection.phase is SENDING:  # else it has its response, or is about to
                connection.flush()

    def stay_alone(self, served: Connection | None = None) -> None:
        """End a process that the app has forked and that would go on as a second worker here.

        It may have raised what ends a process, while it was serving that client.
        """
        if os.getpid() == self.pid:
            return
        response = served.response if served is not None else None
        error = response.failure if response is not None else None
        code = error.code if isinstance(error, SystemExit) else 1
        if code == 1:
            self.log.error("a process that the app has forked came back here", exc_info=error)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))

    def judge(self, connection: Connection, request: Request, ended: float) -> None:
        """Send what the app has answered, now or, as long as it is quick, with others."""
        self.stay_alone(connection)
        self.now = ended
        if ended - request.started > self.limit:
            self.quick, self.holding = 0, False
        elif not self.holding:
            self.prove()
        if not self.holding:
            self.send_all()
            self.advance(connection)
            return
        request.ended = ended
        connection.phase = SENDING
        if not self.unsent and not self.held:
            self.send_by = ended + TOGETHER
        self.unsent.append(connection)
        if ended > self.send_by:
            self.send_all()

    def prove(self) -> None:
        """That was a quick call."""
        self.quick += 1
        self.holding = self.quick >= PROVEN

    def send_all(self) -> None:
        """Send what waits for others; it is in `unsent` meanwhile, as a hook may hang."""
        if self.held:
            self.send_held()
        for connection in self.unsent:
            connection.phase = HEAD
            self.advance(connection)
        self.sent += self.unsent
        self.unsent.clear()

    def send_held(self) -> None:
        """Send what is held, without a line of ours between two writes."""
        self.stay_alone()
        held, waiting, left = self.held, self.waiting, self.left
        fds = [connection.fd for connection, _ in held]
        writing = map(os.write, fds, waiting)
        while True:
            try:
                left.extend(writing)  # goes on behind the one that has failed
                break
            except BlockingIOError:
                left.append(0)
            except OSError as error:
                left.append(GONE)
                self.log.debug("the client left: %s", error, extra=self.fields())
        whole = left == list(map(len, waiting))
        sent = held[:] if whole else self.all_sent()
        waiting.clear()
        held.clear()
        left.clear()
        deadline = self.now + self.keepalive
        for connection, head in sent:
            if not head.keep_alive:
                self.drop(connection)
            elif connection.events == READ:
                connection.idle = True
                connection.deadline = deadline
                if connection.filed > deadline + 1:  # it has waited for something else
                    self.timers.set(connection, deadline)
            else:
                self.await_more(connection)

    def all_sent(self) -> list[tuple[Connection, http1.Head]]:
        """Deal with those who have not taken it all; return those who have."""
        done = []
        for (connection, head), data, left in zip(self.held, self.waiting, self.left, strict=True):
            if left == len(data):
                done.append((connection, head))
            elif left == GONE:
                self.drop(connection)
            else:
                self.send_rest(connection, head, memoryview(data)[left:])
        return done

    def send_rest(self, connection: Connection, head: http1.Head, data: memoryview) -> None:
        """The client does not take it all at once."""
        response = connection.response = self.response_to(head, connection, self.now)
        response.keep_alive = head.keep_alive
        response.rest(data)
        self.advance(connection)
        self.sent.append(connection)  # it may have found room meanwhile

    def expire(self, now: float) -> None:
        if self.held or self.unsent:
            self.send_all()
        if self.sent:
            sent, self.sent = self.sent, []
            for connection in sent:
                if connection.phase is HEAD:
                    if connection.buffer:
                        self.postpone(connection)
                    else:
                        self.await_more(connection)
        super().expire(now)
