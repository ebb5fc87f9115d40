"""Who may go the short way: all that they have sent is read in a row."""

import os
import select
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import repeat
from operator import itemgetter
from types import FrameType

from prefork_sd import http1
from prefork_sd.hooks import nothing
from prefork_sd.listeners import Listener
from prefork_sd.workers.accept import ACCEPT_FOR, ACCEPT_MOST, READ
from prefork_sd.workers.connection import RECEIVE, Connection
from prefork_sd.workers.together import TogetherWorker

read = os.read  # looked up once
LONGEST = http1.Heads.longest
MANY = 64  # requests that are read before they are answered
# bytes read of each at once: what Python allocates quickest, as long as it is enough for all
SMALL = 512 - bytes.__basicsize__
ROOMS = SMALL, LONGEST  # who has sent that many bytes may have sent more
FD = itemgetter(0)

Heard = Iterator[tuple[Connection, bytes, str]]  # with the id of each request


class HearingWorker(TogetherWorker):
    """Keeps the clients in `clear` whose next request may go the short way.

    Nothing of one of them is unread, unanswered or unsent, and no TLS is in between.
    """

    clear: dict[int, Connection] = {}  # noqa: RUF012 (one of its own, when it serves)

    def prepare(self) -> None:
        super().prepare()
        hooked = self.hooks.pre_request is not nothing or self.hooks.post_request is not nothing
        recorded = self.access.all or bool(self.id_header)
        self.short = not hooked and not recorded and self.keepalive > 0
        self.clear = {}
        self.fresh: list[Connection] = []  # new in this turn
        self.room = LONGEST  # bytes read of each

    def answer(self, heard: Heard) -> None:
        """Answer what may go the short way, and have the rest go its own."""
        raise NotImplementedError

    def deal(self, events: list[tuple[int, int]]) -> None:
        for start in range(0, len(events), MANY):
            self.answer(self.hear(events[start : start + MANY], self.room))
        if self.fresh:
            self.send_all()
            self.greet()

    def on_data(self, connection: Connection) -> None:
        if self.short and self.alive and connection.bare and not connection.heavy:
            self.clear[connection.fd] = connection
            self.answer(self.hear([(connection.fd, READ)], RECEIVE))
        else:
            super().on_data(connection)

    def hear(self, events: list[tuple[int, int]], room: int) -> Heard:
        """Read from those in `clear`, `room` bytes of each at most; the rest goes as ever.

        To read all of them, answer all, and send all costs less than each in turn: neither the
        kernel nor the app finds the processor's caches full of the other. For the same reason there
        are none of our own lines between two reads.
        """
        try:
            heard = list(map(self.clear.__getitem__, map(FD, events)))  # nearly always
        except KeyError:
            heard = []
        if not heard:  # not in the `except`, which apps would see
            heard = self.hear_others(events)
        data: list[bytes] = []
        reading = map(read, [connection.fd for connection in heard], repeat(room))
        while True:
            try:
                data.extend(reading)  # goes on behind the one that has failed
                break
            except BlockingIOError:
                connection = heard.pop(len(data))
                if connection.events != READ:
                    self.watch(connection, READ)
            except OSError:
                self.drop(heard.pop(len(data)))
        if room == LONGEST and 0 < max(map(len, data), default=0) < SMALL:
            self.room = SMALL
        return zip(heard, data, self.ids, strict=False)

    def hear_others(self, events: list[tuple[int, int]]) -> list[Connection]:
        """Deal with what is not in `clear`; return those who are."""
        clear = self.clear
        others = [event for event in events if event[0] not in clear]
        for fd, event in others:
            self.on_event(fd, event)
        dealt_with = dict(others)
        return [clear[fd] for fd, _ in events if fd in clear and fd not in dealt_with]

    def serve_data(self, connection: Connection, data: bytes) -> None:
        """What it has sent is something else, or more than there was room for."""
        self.clear.pop(connection.fd, None)
        if data:
            connection.take(data)
        else:
            connection.ended = True
        if len(data) in ROOMS:
            self.room = LONGEST
            with suppress(OSError):  # which is noticed by the next one to read
                connection.receive()
        self.serve(connection)

    def accept(self, listener: Listener) -> None:
        """Where nobody else could take them, all the new clients of a quick app at once."""
        if self.several or not self.holding or not self.short:
            super().accept(listener)
            return
        until = time.monotonic() + ACCEPT_FOR
        for _ in range(ACCEPT_MOST):
            connection = self.let_in(listener) if self.alive and self.accepting else None
            if connection is None:
                break
            if connection.bare:
                self.clear[connection.fd] = connection
                self.fresh.append(connection)
            else:
                self.welcome(connection)
                if time.monotonic() > until:
                    break

    def greet(self) -> None:
        """Hear those new clients whose requests have come; an empty read costs more than to ask."""
        fresh, self.fresh = self.fresh, []
        glance = select.poll()
        for connection in fresh:
            glance.register(connection.fd, READ)
        self.answer(self.hear(glance.poll(0), RECEIVE))
        for connection in fresh:
            if connection.bare and not connection.served:
                self.watch(connection, READ)
            self.bid(connection)

    def await_more(self, connection: Connection) -> None:
        super().await_more(connection)
        if self.short and self.alive and connection.bare and not connection.heavy:
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
