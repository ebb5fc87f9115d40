"""The clients that a worker has let in: watched, refused, and left, each at its own time."""

import time
from math import inf

from prefork_sd import http1
from prefork_sd.journal import Event
from prefork_sd.workers.accept import READ, AcceptingWorker
from prefork_sd.workers.connection import LINGERING, RUNNING, UNWATCHED, Connection

LAST_WORDS = 2.0  # seconds for a refused client to read why


class ClientsWorker(AcceptingWorker):
    """Has epoll and the timers look after each connection, until it is over."""

    def renew(self, now: float) -> None:
        """The heartbeat: the app is waited for from now on, or a little longer."""
        raise NotImplementedError

    def complete(self, connection: Connection) -> None:
        """A request is over."""
        raise NotImplementedError

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
