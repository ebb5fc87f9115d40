"""The short way of a request that came before, byte for byte, and that the app answers at once.

Whatever else it turns out to be goes on the way for everything, which `LoopWorker` is.
"""

import sys
import time
from _thread import _count as other_threads
from contextvars import Context, copy_context
from io import BytesIO

from prefork_sd import http1, wsgi
from prefork_sd.applog import DESK, REQUEST
from prefork_sd.workers.connection import HEAD, Connection, Request
from prefork_sd.workers.hearing import LONGEST, ROOMS, Heard, HearingWorker
from prefork_sd.workers.together import TOGETHER

clock = time.monotonic  # looked up once
NONE = (0,) * 5
SHARING = frozenset({"asyncio", "greenlet"})  # where one thread works on several requests in turns
IN_HAND = REQUEST.set


class ShortWayWorker(HearingWorker):
    """Answers all that was heard in one loop, and leaves what is not that simple to others."""

    in_call = False  # whether the app is called, and nothing accepted

    def prepare(self) -> None:
        super().prepare()
        self.since = self.tmp.since(0)
        self.unnoticed = min(self.limit, self.access.long)  # seconds of a call
        self.reply = wsgi.Reply.of(self.growing)
        self.kinds = [*NONE]  # responses by the class of their status, since `settle_up`
        self.seconds = 0.0
        self.bytes = 0

    def answer(self, heard: Heard) -> None:
        """Answer what may go the short way. All that is hot is written out here.

        The short way's time is a sum of stretches: `resumed` is where this one began, `begun` where
        it has come to.
        """
        held, waiting, app, Reply = self.held, self.waiting, self.wsgi, self.reply  # noqa: N806
        limit, since, desk = self.unnoticed, self.since, DESK
        raw: bytes | None = None  # the request before; None: other code ran, all may have changed
        plain: dict[bytes, wsgi.Template] = {}
        said: wsgi.Shape | None = None
        count = 0  # of responses with the same head
        noted = False  # whether the context says which request is in hand, and not the desk
        alone = sys.modules.keys().isdisjoint(SHARING)
        begun = resumed = seconds = 0.0
        self.in_call = True  # also while nothing but that is done
        self.now = clock()
        for connection, data, own_id in heard:
            if data == raw and connection.plain is plain:
                since[0] = begun
            else:
                if raw is None:
                    seconds += begun - resumed
                    resumed = begun = self.now
                    renewal, send_by, holding = self.renewal, self.send_by, self.holding
                    date = wsgi.Clock.date()
                plain = connection.plain
                template = plain.get(data) if len(data) <= LONGEST else None
                if template is None:
                    template = connection.terms.template(data)
                if template is None or (not template.head.keep_alive and len(data) in ROOMS):
                    self.now, raw, noted = begun, None, False
                    self.leave_to_serve(connection, data)
                    continue
                raw, head, known, told = data, template.head, template.environ, template.told
                self.tmp.begin(0, head.raw, begun)
                if said is not None:
                    self.tally(said, count)
                    said = None

            if begun > renewal:
                self.renew(begun)
                renewal = self.renewal
            reply = Reply()
            reply.head = head
            reply.client = connection
            reply.id = own_id
            reply.shape = None
            environ = known.copy()
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = connection.remote
            environ["wsgi.input"] = empty = BytesIO()
            environ["wsgi.early_hints"] = reply
            environ["PREFORK_SD_REQUEST_ID"] = own_id
            if alone and not other_threads():
                desk.request = reply
                if noted:  # the last other thread has gone since
                    IN_HAND(None)
                    noted = False
            else:
                desk.request, noted = None, True
                IN_HAND(reply)
            context = copy_context()
            body = None
            try:
                if not told or self.tell(reply, environ):
                    iterable = context.run(app, environ, reply.start_response)
                    shape = reply.shape
                    if (
                        type(iterable) is not list
                        or len(iterable) != 1
                        or type(body := iterable[0]) is not bytes
                        or shape is None
                        or shape.length != len(body)
                    ):
                        body = context.run(reply.settle, iterable, holding)
            except BaseException as error:  # noqa: BLE001 (whatever an app raises is its 500)
                body = None
                context.run(reply.fail, error)
            ended = clock()
            if body is None or shape is None or ended - begun > limit:
                self.now, raw, noted = ended, None, False
                request = Request(head, empty, begun, 0.0, environ, own_id)
                self.leave_to_judge(connection, request, reply, body, context)
                continue

            reply.client = None  # it is over
            connection.served = 1
            if shape is not said:
                if said is not None:
                    self.tally(said, count)
                said, count = shape, 0
                if head.keep_alive:
                    start = shape.kept if shape.date is date else shape.whole()
                else:
                    start = shape.whole(wsgi.CLOSE)
            count += 1
            if not head.keep_alive:
                connection.parting = True
            if not held and not self.unsent:
                self.send_by = send_by = ended + TOGETHER
            held.append((connection, head))
            waiting.append(start + body)
            if holding and ended < send_by:
                begun = ended
            else:
                seconds += ended - resumed
                self.now = ended
                if not holding:
                    self.prove()
                    holding = self.holding
                desk.request = None
                self.send_all()  # which may run the app
                self.in_call = True
                self.now = begun = resumed = clock()
                raw = None
        if raw is not None:
            self.now = begun
        if said is not None:
            self.tally(said, count)
        self.seconds += seconds + begun - resumed
        self.in_call = False
        self.clear_desk()

    def tally(self, shape: wsgi.Shape, count: int) -> None:
        """So many responses had that head."""
        self.kinds[shape.kind] += count
        self.bytes += count * (shape.length or 0)

    def clear_desk(self) -> None:
        """Nothing is in hand."""
        DESK.request = None
        IN_HAND(None)

    def growing(self, head: http1.Head, connection: Connection) -> wsgi.Response:
        """What a reply grows into, during the call of the app; what it has may be sent at once."""
        response = connection.response = self.response_to(head, connection, self.since[0])
        return response

    def tell(self, reply: wsgi.Reply, environ: wsgi.Environ) -> bool:
        """What a proxy has said of the client; False: that is not to be had."""
        if self.forwarded is not None:
            try:
                self.forwarded.apply(environ)
            except Exception as error:  # noqa: BLE001 (one request must not end the worker)
                reply.fail(error)
                return False
        return True

    def leave_to_serve(self, connection: Connection, data: bytes) -> None:
        """What it has sent is something else, or more than there was room for."""
        self.clear_desk()
        self.serve_data(connection, data)
        self.in_call = True

    def leave_to_judge(
        self,
        connection: Connection,
        request: Request,
        reply: wsgi.Reply,
        body: bytes | None,
        context: Context,
    ) -> None:
        """What the app has answered is something else, or it took its time.

        `body` is all of a response whose head the reply knows.
        """
        self.clear.pop(connection.fd, None)
        response = reply.grow()
        self.tmp.end(0)
        if body is not None:
            response.take([body])
        context.run(IN_HAND, request)
        response.belong(context)
        self.clear_desk()
        connection.request = request
        self.judge(connection, request, self.now)
        if connection.phase is HEAD:
            self.serve(connection)
        self.in_call = True

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
