"""Who is let in: a worker's listeners, shared fairly with its siblings."""

import errno
import os
import select
import time
from collections.abc import Callable
from functools import partial
from math import inf

from prefork_sd import wsgi
from prefork_sd.forwarded import Trust
from prefork_sd.listeners import HTTPS, Listener
from prefork_sd.workers.base import Worker
from prefork_sd.workers.connection import CLOSED, SENDING, Connection
from prefork_sd.workers.terms import Terms, limits_of
from prefork_sd.workers.timers import Timers

ACCEPT_MOST, ACCEPT_FOR = 32, 0.002  # connections and seconds before the others have their turn
LEAVE = 0.001  # seconds in which a worker that has kept a client leaves the next one to the others
PAUSE = 0.5  # seconds without accepting when no file descriptor is to be had
GLANCE = 0.001  # seconds for the first bytes of a client, before another one is accepted
PATIENCE = 0.005  # seconds that an app called inline may take if its client is to be kept
FOREVER = 1e8  # seconds, for a limit that is off

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
GONE = select.EPOLLHUP | select.EPOLLERR


class AcceptingWorker(Worker):
    """Makes a `Connection` of each client, and leaves it to `on_data`."""

    multithread = False

    def prepare_to_accept(self, trust: Trust) -> None:
        """Set up what it needs; `trust` is in the proxies that may speak for a client."""
        cfg = self.cfg
        self.poll = select.epoll()
        self.timers = Timers()
        self.connections: dict[int, Connection] = {}
        self.listening: dict[int, Listener] = {}
        self.accepting = False
        self.accept_again = inf
        self.several = cfg.workers != 1  # who share the clients among them
        # while this worker calls a slow app, its clients would better be with another one
        self.patience = PATIENCE if self.inline and self.several else inf
        self.proxied = trust if cfg.proxy_protocol else None
        self.head_timeout = cfg.head_timeout or FOREVER
        self.makers = {one.sock.fileno(): self.maker_for(one) for one in self.sockets}

    def on_data(self, connection: Connection) -> None:
        """Read, and serve every request that is there in full."""
        raise NotImplementedError

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
            connection = self.let_in(listener)
            if connection is None:
                return
            served = self.welcome(connection)
            if self.several and self.accepting and self.kept(connection):
                self.stop_accepting()
                self.accept_again = time.monotonic() + LEAVE
                return
            if not served or not self.alive or not self.accepting or time.monotonic() > until:
                return

    def let_in(self, listener: Listener) -> Connection | None:
        """A connection of its own for the next client; None if there is none, or no room."""
        try:
            fd, address = listener.sock._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            self.cannot_accept(error)
            return None
        os.set_blocking(fd, False)
        remote = (address[0], str(address[1])) if type(address) is tuple else ("", "")
        connection = self.makers[listener.sock.fileno()](fd, remote)
        if self.proxied is not None:
            connection.announced = not self.proxied(remote[0])
        self.connections[fd] = connection
        if len(self.connections) >= self.cfg.worker_connections:
            self.stop_accepting()
        return connection

    def kept(self, connection: Connection) -> bool:
        """Whether that client is with us for more than the response that it gets right now."""
        if connection.phase is CLOSED or connection.parting:
            return False
        return connection.response is None or connection.response.keep_alive

    def welcome(self, connection: Connection) -> bool:
        """Serve a new client; True if that is done, as its request has come with it."""
        if self.patience < inf:
            connection.wait_for_data(GLANCE)
        self.on_data(connection)
        self.bid(connection)
        return connection.served > 0 or connection.phase is SENDING

    def bid(self, connection: Connection) -> None:
        """Who is still with us, and has not said anything, has so much time for it."""
        if connection.filed == 0 and not connection.parting:
            self.timers.set(connection, time.monotonic() + self.head_timeout)

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

    def maker_for(self, listener: Listener) -> Callable[[int, tuple[str, str]], Connection]:
        """What makes a connection of a descriptor and a client's address there."""
        base = wsgi.base_environ(
            server_name=listener.server_name,
            server_port=listener.server_port,
            scheme="https" if listener.name == HTTPS else "http",
            script_name=self.cfg.script_name,
            multithread=self.multithread,
            multiprocess=True,
        )
        terms = Terms(
            base,
            limits_of(self.cfg),
            body_buffer=self.cfg.body_buffer,
            send_timeout=self.cfg.send_timeout or FOREVER,
        )
        if listener.name != HTTPS:
            return partial(Connection, terms)
        assert self.tls is not None
        from prefork_sd.workers.tlsconnection import TlsConnection  # only where ssl is loaded

        return partial(TlsConnection, self.tls, terms)
