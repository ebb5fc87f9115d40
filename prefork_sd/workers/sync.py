"""The `sync` worker: one request at a time, the app called inline by the loop."""

import os
import time
from contextlib import suppress
from contextvars import Context, copy_context
from io import BytesIO
from types import FrameType

from prefork_sd import http1, wsgi
from prefork_sd.applog import REQUEST
from prefork_sd.hooks import nothing
from prefork_sd.workers.accept import READ, WRITE
from prefork_sd.workers.connection import HEAD, RECEIVE, SENDING, Connection, Request
from prefork_sd.workers.loop import LoopWorker

read, write, monotonic, Reply, in_hand = os.read, os.write, time.monotonic, wsgi.Reply, REQUEST.set

QUICK = 0.0005  # seconds that a call of a quick app takes at most
PROVEN = 200  # quick calls in a row that make an app a quick one
TOGETHER = 0.002  # seconds that a response may wait for the next ones


class SyncWorker(LoopWorker):
    """The fastest way for an app that computes; slow clients still cost it nothing.

    The responses of a quick app leave together at the end of a turn: who gets many of them (a
    proxy on this machine) is woken up once. The first slow call ends that, for itself and until the
    app has proven quick again.

    There is a short way for the usual case: a request that came before, byte for byte, and that the
    app answers at once. Whatever else it turns out to be goes on the way that LoopWorker knows.
    """

    inline = True
    in_call = False

    def prepare(self) -> None:
        self.unsent: list[Connection] = []  # their responses wait for others
        self.sent: list[Connection] = []  # and these have left in this turn
        self.send_by = 0.0  # monotonic seconds
        self.quick = 0  # quick calls in a row
        super().prepare()
        hooked = self.hooks.pre_request is not nothing or self.hooks.post_request is not nothing
        self.short = not hooked and not self.id_header and not self.access.all
        self.short = self.short and self.keepalive > 0
        self.clear: dict[int, Connection] = {}  # whose next request may go the short way
        self.held: list[tuple[Connection, http1.Head, bytes]] = []  # these wait for others, too
        self.limit = min(QUICK, self.access.long)
        self.kinds = [0] * 5  # of responses that went the short way, since `settle_up`
        self.seconds = 0.0
        self.bytes = 0

    def run(self) -> None:
        try:
            super().run()
        except BaseException:
            self.point_out()
            raise

    def handle_exit(self, signum: int, frame: FrameType | None) -> None:
        self.clear.clear()  # from now on each response says that it is the last one
        super().handle_exit(signum, frame)
        if self.in_call:
            self.drain()  # true already: the loop looks at `alive` before it accepts

    def point_out(self) -> None:
        """What was answered before the call that hangs, or the failure, is not lost with it."""
        for connection, _, data in self.held:
            with suppress(OSError):
                os.write(connection.fd, data)
        for connection in self.unsent:
            if connection.phase is SENDING:  # else it has its response, or is about to
                connection.flush()

    # ---- the short way

    def deal(self, events: list[tuple[int, int]]) -> None:
        """Answer what may go the short way; the rest as ever. What is written out here is hot."""
        clear, held, kinds = self.clear, self.held, self.kinds
        date = wsgi.Clock.date()
        begun, renewal, limit = self.now, self.renewal, self.limit
        ids, growing, app, whole, note = (
            self.ids,
            self.growing,
            self.wsgi,
            Reply.whole,
            self.tmp.begin,
        )
        for fd, event in events:
            if (connection := clear.get(fd)) is None:
                self.on_event(fd, event)
                begun, renewal = self.now, self.renewal
                continue
            try:
                data = read(fd, RECEIVE)
            except OSError as error:
                self.cannot_read(connection, error)
                continue
            head = connection.known.get(data)
            if head is None or (template := head.kept) is None or not template.plain:
                self.hear(connection, data)
                begun, renewal = self.now, self.renewal
                continue
            if begun > renewal:
                self.renew(begun)
                renewal = self.renewal
            reply = Reply()
            reply.head = head
            reply.client = connection
            reply.growing = growing
            reply.id = own = next(ids)
            environ = template.environ.copy()
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = connection.remote
            environ["wsgi.input"] = BytesIO()
            environ["wsgi.early_hints"] = reply.early_hints
            environ["PREFORK_SD_REQUEST_ID"] = own
            if template.told and self.forwarded is not None:
                self.forwarded.apply(environ)
            note(0, head.raw, begun)
            in_hand(reply)
            context = copy_context()
            self.in_call = True
            body = context.run(whole, reply, app, environ)
            self.in_call = False
            ended = self.now = monotonic()
            shape = reply.shape
            if body is None or shape is None or ended - begun > limit:
                self.go_on(connection, reply, body, context, environ, begun)
                begun, renewal = self.now, self.renewal
                continue
            kinds[shape.kind] += 1
            self.seconds += ended - begun
            self.bytes += len(body)
            connection.served = 1
            if head.keep_alive:
                start = shape.kept if shape.date is date else shape.whole()
            else:
                start = shape.whole(wsgi.CLOSE)
                connection.parting = True
            if not held:
                self.send_by = ended + TOGETHER
            held.append((connection, head, start + body))
            if not self.holding:
                self.quick += 1
                self.holding = self.quick >= PROVEN
                self.send_all()
            elif ended > self.send_by:
                self.send_held()
            begun = ended

    def on_data(self, connection: Connection) -> None:
        if self.short and connection.bare:
            self.clear[connection.fd] = connection
            self.deal([(connection.fd, READ)])
        else:
            super().on_data(connection)

    def cannot_read(self, connection: Connection, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            self.watch(connection, READ)
        else:
            self.drop(connection)

    def hear(self, connection: Connection, data: bytes) -> None:
        """What it has sent is for the way that is for everything."""
        self.clear.pop(connection.fd, None)
        if data:
            connection.take(data)
        else:
            connection.ended = True
        self.serve(connection)

    def go_on(
        self,
        connection: Connection,
        reply: wsgi.Reply,
        body: bytes | None,
        context: Context,
        environ: wsgi.Environ,
        begun: float,
    ) -> None:
        """The app's answer is for the way that is for everything."""
        self.tmp.end(0)
        REQUEST.set(None)
        response = reply.grow()
        if body is not None:
            response.take([body])
        response.belong(context)
        self.clear.pop(connection.fd, None)
        connection.response = response
        request = connection.request = Request(
            reply.head, environ["wsgi.input"], begun, 0.0, environ, reply.id
        )
        self.judge(connection, request, self.now)
        if connection.phase is HEAD:
            self.serve(connection)

    def growing(self, head: http1.Head, client: wsgi.Client) -> wsgi.Response:
        """What a reply grows into, during the call."""
        keep_alive = head.keep_alive and self.alive
        patience = self.now + self.patience
        return self.respond(head, client, keep_alive, self.bounds, patience, self.holding)

    def send_held(self) -> None:
        """Send what went the short way; each is taken off first, so that none leaves twice."""
        held = self.held
        held.reverse()
        until = self.now + self.keepalive
        while held:
            connection, head, data = held.pop()
            try:
                sent = os.write(connection.fd, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.log.debug("the client left: %s", error, extra=self.fields())
                self.drop(connection)
                continue
            if sent < len(data):
                self.send_rest(connection, head, memoryview(data)[sent:])
            elif not head.keep_alive:
                self.drop(connection)
            elif connection.events == READ:
                connection.idle = True
                connection.deadline = until
            else:
                self.await_more(connection)

    def send_rest(self, connection: Connection, head: http1.Head, data: memoryview) -> None:
        """The client does not take it all at once."""
        self.clear.pop(connection.fd, None)
        connection.response = self.growing(head, connection)
        connection.response.keep_alive = head.keep_alive
        connection.response.rest(data)
        self.advance(connection)

    def settle_up(self) -> None:
        """Count what went the short way."""
        count = sum(self.kinds)
        self.tmp.end(0)
        self.tmp.observe_quick(self.kinds, self.seconds, self.bytes)
        self.kinds[:] = [0] * 5
        self.seconds = 0.0
        self.bytes = 0
        self.requests += count
        if self.wears and self.wear.worn(self.requests):
            self.tire()

    def await_more(self, connection: Connection) -> None:
        super().await_more(connection)
        if self.short and self.alive and connection.bare:
            self.clear[connection.fd] = connection

    def forget(self, connection: Connection) -> None:
        self.clear.pop(connection.fd, None)
        super().forget(connection)

    # ---- the way for everything

    def execute(self, connection: Connection, request: Request) -> None:
        self.in_call = True
        begun = request.started = time.monotonic()
        if begun > self.renewal:
            self.renew(begun)
        self.call_app(connection, request, 0)
        self.in_call = False
        ended = self.now = time.monotonic()
        self.judge(connection, request, ended)

    def judge(self, connection: Connection, request: Request, ended: float) -> None:
        """Send what the app has answered, now or, as long as it is quick, with others."""
        if ended - request.started > QUICK:
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
        if not self.unsent and not self.held:
            self.send_by = ended + TOGETHER
        self.unsent.append(connection)
        if ended > self.send_by:
            self.send_all()

    def send_all(self) -> None:
        """Send what waits for others; it is in `unsent` meanwhile, as a hook may hang."""
        if self.held:
            self.send_held()
        for connection in self.unsent:
            connection.phase = HEAD
            self.advance(connection)
        self.sent += self.unsent
        self.unsent.clear()

    def expire(self, now: float) -> None:
        self.send_all()
        if any(self.kinds):
            self.settle_up()
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
