"""The control socket, the service's side of it, which never waits; `asking` is the other."""

import errno
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from prefork_sd import varlink
from prefork_sd.errors import ConfigError, Problem

MOST_CONNECTIONS = 32
MOST_CALLS = 32
MOST_UNREAD_BYTES = 1024 * 1024
IDLE_SECONDS = 60.0
# After an accept that failed for want of descriptors: so long the listener is left alone.
PAUSE_SECONDS = 1.0
_NOT_NOW = (errno.EAGAIN, errno.EINTR, errno.ECONNABORTED)


@dataclass(eq=False, slots=True)
class Call:
    """One call of a method. Answer it with `reply` or `error`, now or later; only once.

    Answers on a connection go out in the order of its calls. What is said to a client that has
    gone, or that wants no answer (`oneway`), is lost without a word.
    """

    connection: "Connection"
    method: str
    parameters: dict[str, object]
    more: bool = False
    oneway: bool = False
    answered: bool = False
    said: bytearray = field(default_factory=bytearray)

    def reply(
        self, parameters: Mapping[str, object] | None = None, continues: bool = False
    ) -> None:
        """Answer. `continues`: another answer follows; only who asked for `more` gets it."""
        if self.more or not continues:
            self._say(varlink.Reply(parameters or {}, continues=continues))

    def error(self, name: str, parameters: Mapping[str, object] | None = None) -> None:
        """Answer with the error `name`, like "io.prefork.sd.ReloadFailed"."""
        self._say(varlink.Reply(parameters or {}, error=name))

    def _say(self, answer: varlink.Reply) -> None:
        if not self.answered:
            self.answered = not answer.continues
            self.said += answer.encode()
            self.connection.push()


class Connection:
    """One client: what it sent so far, its unanswered calls in order, what it has yet to read."""

    def __init__(self, sock: socket.socket, clock: Callable[[], float]) -> None:
        self.sock = sock
        self.open = True
        self._clock = clock
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._calls: deque[Call] = deque()
        self._moved = clock()

    def pull(self) -> list[Call]:
        """Read what is there, and return the calls that the service has to answer."""
        try:
            if data := self.sock.recv(varlink.MOST_BYTES):
                self._inbox += data
                return self._take_calls()
        except OSError as error:
            if error.errno in _NOT_NOW:
                return []
        except varlink.MalformedError:
            pass
        self.close()
        return []

    def _take_calls(self) -> list[Call]:
        calls = []
        while self.open and (message := varlink.take(self._inbox)) is not None:
            self._moved = self._clock()
            asked = varlink.request(message)
            call = Call(self, asked.method, asked.parameters, asked.more, asked.oneway)
            if not call.oneway:
                self._calls.append(call)
            if (answer := varlink.answer(asked)) is not None:
                call._say(answer)
            else:
                calls.append(call)
            if len(self._calls) > MOST_CALLS:
                raise varlink.MalformedError("too many calls at once")
        return calls

    def push(self) -> None:
        """Send the answers whose turn it is, as far as the client takes them."""
        while self._calls and (self._calls[0].said or self._calls[0].answered):
            first = self._calls[0]
            self._outbox += first.said
            first.said.clear()
            if not first.answered:
                break
            self._calls.popleft()
        try:
            while self.open and self._outbox:
                del self._outbox[: self.sock.send(self._outbox)]
                self._moved = self._clock()
        except OSError as error:
            if error.errno not in _NOT_NOW:
                self.close()
        if len(self._outbox) > MOST_UNREAD_BYTES:
            self.close()

    @property
    def wants_write(self) -> bool:
        return bool(self._outbox)

    @property
    def deadline(self) -> float:
        """When it has been idle for too long; a client that waits for its answer is not idle."""
        waits = self._calls and not self._outbox
        return inf if waits else self._moved + IDLE_SECONDS

    def close(self) -> None:
        self.open = False
        self._outbox.clear()
        self.sock.close()


class ControlServer:
    """The service's side. It never waits: the arbiter polls `fds()` and calls in here."""

    def __init__(
        self,
        where: str | os.PathLike[str] | socket.socket,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`where`: the path of the socket to make in `bind`, or one that listens already."""
        self.path: Path | None = None
        self._sock: socket.socket | None = None
        self._file: tuple[int, int, int] | None = None
        self._clock = clock
        self._paused_until = -inf
        self._connections: dict[int, Connection] = {}
        if isinstance(where, socket.socket):
            where.setblocking(False)
            self._sock = where
        else:
            self.path = Path(where)

    def bind(self) -> None:
        """Listen at the path with mode 0600; a socket on which nobody answers is replaced.

        Raises ConfigError. Nothing happens if the socket listens already.
        """
        if self._sock is not None or self.path is None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _make_room(self.path)
            sock.bind(str(self.path))
            self._file = _identity(self.path)
            self.path.chmod(0o600)
            sock.listen(MOST_CONNECTIONS)
        except (OSError, ValueError) as error:
            sock.close()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ConfigError(
                Problem(f"cannot listen on {self.path}: {reason}", key="control")
            ) from error
        self._sock = sock

    def adopt(self, fd: int) -> None:
        """Listen on what our former image made, if that is still the socket at the path."""
        sock = socket.socket(fileno=fd)
        file = _identity(self.path) if self.path is not None else None
        if file is not None and sock.getsockname() == str(self.path):
            self._sock, self._file = sock, file
        else:
            sock.close()

    def fileno(self) -> int:
        """The descriptor of the listener; -1 when there is none."""
        return -1 if self._sock is None else self._sock.fileno()

    def fds(self) -> dict[int, int]:
        """What to poll now: descriptor → select.POLLIN, and POLLOUT where an answer waits.

        While there are as many connections as may be, further clients wait in the backlog.
        """
        fds = {
            fd: select.POLLIN | (select.POLLOUT if connection.wants_write else 0)
            for fd, connection in self._open().items()
        }
        full = len(fds) >= MOST_CONNECTIONS or self._clock() < self._paused_until
        if self._sock is not None and not full:
            fds[self._sock.fileno()] = select.POLLIN
        return fds

    def on_readable(self, fd: int) -> list[Call]:
        """Take what a descriptor has (POLLIN, POLLHUP, POLLERR); return the calls to answer.

        What needs no service (introspection, Ping, a call that is wrong) is answered in here. A
        descriptor that is no longer ours is no error.
        """
        if fd == self.fileno():
            self._accept()
        elif (connection := self._open().get(fd)) is not None:
            return connection.pull()
        return []

    def on_writable(self, fd: int) -> None:
        """Go on with the answers that the client had no room for (POLLOUT)."""
        if (connection := self._open().get(fd)) is not None:
            connection.push()

    def wants_write(self, fd: int) -> bool:
        connection = self._open().get(fd)
        return connection is not None and connection.wants_write

    def expire(self, now: float) -> None:
        """Close what has been idle, or has not read its answer, for 60 s. Monotonic seconds."""
        for connection in self._open().values():
            if connection.deadline <= now:
                connection.close()

    def next_deadline(self) -> float:
        """When `expire` or `fds` will have something new to say; inf: never."""
        pause = self._paused_until if self._paused_until > self._clock() else inf
        return min([connection.deadline for connection in self._open().values()] + [pause])

    def close(self) -> None:
        """Close everything; the socket file goes too if it is the one that this process made."""
        if self.path is not None and self._file and self._file == _identity(self.path):
            self.path.unlink(missing_ok=True)
        self.close_in_child()

    def close_connections(self) -> None:
        for connection in self._open().values():
            connection.close()
        self._connections.clear()

    def close_in_child(self) -> None:
        """Close what a forked child has inherited; the parent's clients notice nothing."""
        self.close_connections()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _accept(self) -> None:
        assert self._sock is not None
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            if error.errno not in _NOT_NOW:
                self._paused_until = self._clock() + PAUSE_SECONDS
            return
        sock.setblocking(False)
        self._connections[sock.fileno()] = Connection(sock, self._clock)

    def _open(self) -> dict[int, Connection]:
        """The connections by descriptor, without those that closed themselves."""
        self._connections = {fd: conn for fd, conn in self._connections.items() if conn.open}
        return self._connections


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Device and inode of a file with this process's pid; None if there is no file."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, os.getpid())


def _make_room(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        answer = probe.connect_ex(str(path))
    if answer != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, "another process listens there; is the service running?")
    path.unlink(missing_ok=True)
