"""The short way of a request that came before, byte for byte, and that the app answers at once.

Whatever else it turns out to be goes on the way for everything, which `LoopWorker` is.
"""

import os
import select
import time
from collections.abc import Iterator
from contextvars import Context, copy_context
from io import BytesIO
from types import FrameType

from prefork_sd import http1, wsgi
from prefork_sd.applog import REQUEST
from prefork_sd.hooks import nothing
from prefork_sd.listeners import Listener
from prefork_sd.workers.accept import ACCEPT_FOR, ACCEPT_MOST, READ
from prefork_sd.workers.connection import HEAD, RECEIVE, Connection, Request
from prefork_sd.workers.together import TOGETHER, TogetherWorker

read, clock, Reply = os.read, time.monotonic, wsgi.Reply  # looked up once
LONGEST = http1.Heads.longest
ENOUGH = 1 << 18  # bytes to be answered before more is read
NONE = (0,) * 5
WHOLE, IN_HAND = Reply.whole, REQUEST.set


class ShortWayWorker(TogetherWorker):
    """Keeps the clients in `clear` whose next request may go the short way.

    Nothing of one of them is unread, unanswered or unsent, and no TLS is in between.
    """

    in_call = False  # whether the app is called, and nothing accepted
    clear: dict[int, Connection] = {}  # noqa: RUF012 (one of its own, when it serves)

    def prepare(self) -> None:
        super().prepare()
        hooked = self.hooks.pre_request is not nothing or self.hooks.post_request is not nothing
        recorded = self.access.all or bool(self.id_header)
        self.short = not hooked and not recorded and self.keepalive > 0
        self.clear = {}
        self.since = self.tmp.since(0)
        self.unnoticed = min(self.limit, self.access.long)  # seconds of a call
        self.fresh: list[Connection] = []  # new in this turn
        self.kinds = [*NONE]  # responses by the class of their status, since `settle_up`
        self.seconds = 0.0
        self.bytes = 0

    def deal(self, events: list[tuple[int, int]]) -> None:
        coming = iter(events)
        while heard := self.hear(coming):
            self.answer(heard)
        if self.fresh:
            self.send_all()
            self.greet()

    def on_data(self, connection: Connection) -> None:
        if self.short and self.alive and connection.bare:
            self.clear[connection.fd] = connection
            self.answer(self.hear(iter([(connection.fd, READ)])))
        else:
            super().on_data(connection)

    def hear(self, events: Iterator[tuple[int, int]]) -> list[tuple[Connection, bytes]]:
        """Read from some of those in `clear`, until there is enough; the rest goes as ever.

        To read all of them, answer all, and send all costs less than each in turn: neither the
        kernel nor the app finds the processor's caches full of the other.
        """
        heard = []
        size = 0
        for fd, event in events:
            if (connection := self.clear.get(fd)) is None:
                self.on_event(fd, event)
                continue
            try:
                data = read(fd, RECEIVE)
            except BlockingIOError:
                if connection.events != READ:
                    self.watch(connection, READ)
                continue
            except OSError:
                self.drop(connection)
                continue
            heard.append((connection, data))
            size += len(data)
            if size > ENOUGH:
                break
        return heard

    def answer(self, heard: list[tuple[Connection, bytes]]) -> None:
        """Answer what may go the short way. All that is hot is written out here."""
        held, kinds, ids, app = self.held, self.kinds, self.ids, self.wsgi
        growing, limit, since = self.growing, self.unnoticed, self.since
        noted: http1.Head | None = None
        seconds, size = 0.0, 0
        date = wsgi.Clock.date()
        self.in_call = True  # also while nothing but that is done
        begun = self.now = clock()
        renewal = self.renewal
        for connection, data in heard:
            template = connection.plain.get(data) if len(data) <= LONGEST else None
            if template is None and (template := connection.terms.template(data)) is None:
                self.leave_to_serve(connection, data)
                begun, renewal, noted = self.now, self.renewal, None
                continue

            if begun > renewal:
                self.renew(begun)
                renewal = self.renewal
            reply = Reply()
            reply.head = head = template.head
            reply.client = connection
            reply.growing = growing
            reply.id = own_id = next(ids)
            environ = template.environ.copy()
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = connection.remote
            environ["wsgi.input"] = empty = BytesIO()
            environ["wsgi.early_hints"] = reply.early_hints
            environ["PREFORK_SD_REQUEST_ID"] = own_id
            if template.told and not self.tell(reply, environ):
                request = Request(head, empty, begun, 0.0, environ, own_id)
                self.leave_to_judge(connection, request, reply, None, copy_context())
                begun, renewal, noted = self.now, self.renewal, None
                continue
            if head is noted:
                since[0] = begun
            else:
                self.tmp.begin(0, head.raw, begun)
                noted = head
            IN_HAND(reply)
            context = copy_context()
            body = context.run(WHOLE, reply, app, environ, self.holding)
            ended = self.now = clock()
            shape = reply.shape
            if body is None or shape is None or ended - begun > limit:
                request = Request(head, empty, begun, 0.0, environ, own_id)
                self.leave_to_judge(connection, request, reply, body, context)
                begun, renewal, noted = self.now, self.renewal, None
                continue

            kinds[shape.kind] += 1
            seconds += ended - begun
            size += len(body)
            connection.served = 1
            if head.keep_alive:
                start = shape.kept if shape.date is date else shape.whole()
            else:
                start = shape.whole(wsgi.CLOSE)
                connection.parting = True
            if not held and not self.unsent:
                self.send_by = ended + TOGETHER
            held.append((connection, head, start + body))
            if not self.holding:
                self.prove()
                self.send_all()
            elif ended > self.send_by:
                self.send_all()
            begun = ended
        self.seconds += seconds
        self.bytes += size
        self.in_call = False
        IN_HAND(None)

    def growing(self, head: http1.Head, connection: Connection) -> wsgi.Response:
        """What a reply grows into, during the call of the app; what it has may be sent at once."""
        response = connection.response = self.response_to(head, connection, self.now)
        return response

    def tell(self, reply: wsgi.Reply, environ: wsgi.Environ) -> bool:
        """What a proxy has said of the client; False: that is not to be had."""
        if self.forwarded is not None:
            try:
                self.forwarded.apply(environ)
            except Exception as error:  # noqa: BLE001 (one request must not end the worker)
                reply.grow().fail(error)
                return False
        return True

    def leave_to_serve(self, connection: Connection, data: bytes) -> None:
        """What it has sent is something else."""
        self.clear.pop(connection.fd, None)
        if data:
            connection.take(data)
        else:
            connection.ended = True
        self.serve(connection)
        self.in_call = True

    def leave_to_judge(
        self,
        connection: Connection,
        request: Request,
        reply: wsgi.Reply,
        body: bytes | None,
        context: Context,
    ) -> None:
        """What the app has answered is something else, or it took its time."""
        IN_HAND(None)
        self.tmp.end(0)
        self.clear.pop(connection.fd, None)
        if body is not None:
            reply.growing = self.growing
        ended, self.now = self.now, request.started
        response = reply.grow()
        self.now = ended
        if body is not None:
            response.take([body])
        response.belong(context)
        connection.request = request
        self.judge(connection, request, self.now)
        if connection.phase is HEAD:
            self.serve(connection)
        self.in_call = True

    # ---- what it means for the rest

    def accept(self, listener: Listener) -> None:
        """Where nobody else could take them, all the new clients of a quick app at once."""
        if self.several or not self.holding or not self.short:
            super().accept(listener)
            return
        until = clock() + ACCEPT_FOR
        for _ in range(ACCEPT_MOST):
            connection = self.let_in(listener) if self.alive and self.accepting else None
            if connection is None:
                break
            if connection.bare:
                self.clear[connection.fd] = connection
                self.fresh.append(connection)
            else:
                self.welcome(connection)
                if clock() > until:
                    break

    def greet(self) -> None:
        """Hear those new clients whose requests have come; an empty read costs more than to ask."""
        fresh, self.fresh = self.fresh, []
        glance = select.poll()
        for connection in fresh:
            glance.register(connection.fd, READ)
        self.answer(self.hear(iter(glance.poll(0))))
        for connection in fresh:
            if connection.bare and not connection.served:
                self.watch(connection, READ)
            self.bid(connection)

    def await_more(self, connection: Connection) -> None:
        super().await_more(connection)
        if self.short and self.alive and connection.bare:
            self.clear[connection.fd] = connection

    def forget(self, connection: Connection) -> None:
        self.clear.pop(connection.fd, None)
        super().forget(connection)

    def send_rest(self, connection: Connection, head: http1.Head, data: memoryview) -> None:
        self.clear.pop(connection.fd, None)
        super().send_rest(connection, head, data)

    def handle_exit(self, signum: int, frame: FrameType | None) -> None:
        self.clear.clear()  # from now on each response says that it is the last one
        super().handle_exit(signum, frame)

    def begin_drain(self) -> None:
        self.clear.clear()  # who came into it while the signal was heard
        super().begin_drain()

    def expire(self, now: float) -> None:
        super().expire(now)
        if self.seconds:
            self.settle_up()

    def settle_up(self) -> None:
        """Count what went the short way."""
        self.tmp.end(0)
        self.tmp.observe_quick(self.kinds, self.seconds, self.bytes)
        self.requests += sum(self.kinds)
        self.kinds[:] = NONE
        self.seconds, self.bytes = 0.0, 0
        if self.wears and self.wear.worn(self.requests):
            self.tire()
