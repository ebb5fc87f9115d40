"""One worker of ours in a child process, serving an app that is a function of the test.

No arbiter: the harness opens the listener, forks the worker and reads its slot on the scoreboard.
What an app has to tell the test goes through a `Wire`; where it waits for the test is a `Gate`.
"""

import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

from prefork_sd import listeners
from prefork_sd.config import Config
from prefork_sd.hooks import Hooks
from prefork_sd.loader import Application
from prefork_sd.process import Exit, Processes
from prefork_sd.scoreboard import LastWords, Scoreboard
from prefork_sd.workers.base import Worker
from prefork_sd.workers.sync import SyncWorker
from prefork_sd.workers.threads import ThreadsWorker

PATIENCE = 10.0  # seconds for anything that has to happen

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


def readable(fd: int, patience: float = PATIENCE) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(patience * 1000))


class Wire:
    """Lines from the worker to the test, across the fork."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC)
        self._buffer = b""

    def say(self, text: str) -> None:
        """In the worker. Short lines of several threads do not mix: pipe(7)."""
        os.write(self._write, f"{text}\n".encode())

    def hear(self) -> str:
        """In the test: the next line."""
        while b"\n" not in self._buffer:
            assert readable(self._read), "nothing was said"
            self._buffer += os.read(self._read, 65536)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def rest(self) -> list[str]:
        """In the test, when the worker has exited: all that was said and not heard yet."""
        os.close(self._write)
        self._write = -1
        with os.fdopen(self._read, "rb") as pipe:
            self._read = -1
            return (self._buffer + pipe.read()).decode().splitlines()

    def close(self) -> None:
        for fd in (self._read, self._write):
            if fd >= 0:
                os.close(fd)


class Gate:
    """Where an app waits until the test lets it go on, once for each `open`."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC)

    def wait(self) -> None:
        """In the worker, in any of its threads."""
        assert readable(self._read), "nobody opened the gate"
        os.read(self._read, 1)

    def open(self, times: int = 1) -> None:
        os.write(self._write, b"." * times)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class GivenApp(Application):
    """An app that needs no import."""

    def __init__(self, wsgi: App, settings: dict[str, object]) -> None:
        super().__init__("given", overrides={"app": "given:app", "workers": 1, **settings})
        self._wsgi = wsgi

    def prepare(self) -> None:
        """Leave the process as it is."""

    def wsgi(self) -> App:
        return self._wsgi


class WireHandler(logging.Handler):
    """Log records as lines: the level, and the first line of the message."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        self.wire.say(f"{record.levelname} {record.getMessage()}".partition("\n")[0])


class Served:
    """A worker that serves. `log` are its records, `slot` is its place on the scoreboard."""

    def __init__(
        self,
        wsgi: App,
        kind: type[Worker] = SyncWorker,
        *,
        hooks: Hooks | None = None,
        bind: str = "127.0.0.1:0",
        **settings: object,
    ) -> None:
        self.app = GivenApp(wsgi, settings)
        self.kind = kind
        self.hooks = hooks or Hooks()
        self.listener = listeners.bind(bind, 2048)
        self._board = Scoreboard()
        self.slot = self._board.take()
        self.slot.reserve(1)
        self.words = LastWords()
        self.log = Wire()
        self._arbiter = os.getpid()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.pid = Processes().fork(self._live)
        self._pidfd = os.pidfd_open(self.pid)
        self._clients: list[Client] = []
        self.ended: Exit | None = None
        self.wait_for(lambda: self.slot.booted)

    @property
    def cfg(self) -> Config:
        return self.app.cfg

    def _live(self) -> int:
        logger = logging.getLogger("prefork_sd")
        logger.handlers[:] = [WireHandler(self.log)]
        logger.propagate = False
        logger.setLevel("DEBUG")
        arguments = (1, self._arbiter, [self.listener], self.app, self.cfg.timeout, self.cfg)
        worker = self.kind(*arguments, logger)
        worker.tmp, worker.words, worker.wake_fd = self.slot, self.words, self._wake
        worker.hooks = self.hooks
        return worker.init_process()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the scoreboard says so; the worker wakes us when it writes there."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        while not condition():
            ready = dict(poll.poll(PATIENCE * 1000))
            assert self._pidfd not in ready, f"{self.exit()}: {self.words.read()}"
            assert ready, "the worker did not say so"
            os.read(self._woken, 4096)

    def connect(self, *, buffer: int = 0) -> "Client":
        """A client; `buffer` is for one that takes little at a time, in bytes."""
        client = Client(self.listener, buffer)
        self._clients.append(client)
        return client

    def get(self, path: str = "/", *fields: str) -> "Reply":
        """The reply to a request on a connection of its own."""
        client = self.connect()
        client.request("GET", path, *fields, "Connection: close")
        reply = client.reply()
        assert client.rest() == b""
        return reply

    @contextmanager
    def reading(self, client: "Client") -> Iterator[None]:
        """A thread reads what comes for that client, and forgets it."""
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                client.sock.recv(1 << 20)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        yield
        done.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()

    def signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done meanwhile has been done, all of it, when the worker looks."""
        self.signal(SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        yield
        self.signal(SIGCONT)

    def exit(self) -> Exit:
        """How it ended, when it has."""
        if self.ended is None:
            assert readable(self._pidfd), "the worker does not exit"
            self._reap()
        assert self.ended is not None
        return self.ended

    def stop(self, signum: int = SIGTERM) -> Exit:
        self.signal(signum)
        return self.exit()

    def _reap(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.ended = Exit(self.pid, max(code, 0), max(-code, 0))

    def close(self) -> None:
        if self.ended is None:
            self.signal(SIGKILL)
            self._reap()
        for client in self._clients:
            client.close()
        self.listener.close()
        self._board.close()
        self.words.close()
        self.log.close()
        for fd in (self._woken, self._wake, self._pidfd):
            os.close(fd)


class Reply:
    """One response as it came, byte for byte."""

    def __init__(self, head: bytes, body: bytes = b"") -> None:
        self.head = head
        self.body = body
        first, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
        self.version, status, self.reason = first.split(" ", 2)
        self.status = int(status)
        self.fields = [
            (name, value.strip()) for name, _, value in (x.partition(":") for x in lines)
        ]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def __getitem__(self, name: str) -> str | None:
        """The field's value; None where there is none. There must not be two."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times"
        return values[0] if values else None

    @property
    def text(self) -> str:
        return self.body.decode("latin-1")

    @property
    def keeps_alive(self) -> bool:
        return (self["Connection"] or "") != "close"


class Client:
    """A raw connection, and a reader of responses that is as strict as the grammar."""

    def __init__(self, listener: listeners.Listener, buffer: int = 0) -> None:
        self.sock = socket.socket(listener.sock.family)
        self.sock.settimeout(PATIENCE)
        if buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.sock.connect(listener.sock.getsockname())
        self.data = bytearray()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_aside(self, data: bytes) -> threading.Thread:
        """Send what may be too much for the socket's buffer while the test reads."""
        thread = threading.Thread(target=self.send, args=[data], daemon=True)
        thread.start()
        return thread

    def request(self, method: str, path: str = "/", *fields: str, body: bytes = b"") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def get(self, path: str = "/") -> Reply:
        self.request("GET", path)
        return self.reply()

    def end(self) -> None:
        """Say that no more follows."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def more(self) -> bool:
        """Read on; False at the end."""
        piece = self.sock.recv(1 << 20)
        self.data += piece
        return bool(piece)

    def take(self, size: int) -> bytes:
        while len(self.data) < size:
            assert self.more(), f"ended after {self.data!r}"
        data = bytes(self.data[:size])
        del self.data[:size]
        return data

    def until(self, end: bytes) -> bytes:
        while end not in self.data:
            assert self.more(), f"ended after {self.data!r}"
        return self.take(self.data.index(end) + len(end))

    def rest(self) -> bytes:
        """Everything up to the end."""
        while self.more():
            pass
        return self.take(len(self.data))

    def chunk(self) -> bytes:
        """One chunk of a chunked body; b"" is the last one."""
        size = int(self.until(b"\r\n").removesuffix(b"\r\n"), 16)
        data = self.take(size)
        assert self.take(2) == b"\r\n"
        return data

    def head(self) -> Reply:
        return Reply(self.until(b"\r\n\r\n"))

    def reply(self, method: str = "GET") -> Reply:
        """One response to a request of that method (RFC 9112, 6.3)."""
        reply = self.head()
        if method == "HEAD" or reply.status in (204, 304) or reply.status < 200:
            return reply
        if reply["Transfer-Encoding"]:
            assert reply["Transfer-Encoding"] == "chunked"
            assert reply["Content-Length"] is None
            reply.body = b"".join(iter(self.chunk, b""))
        elif reply["Content-Length"]:
            reply.body = self.take(int(reply["Content-Length"] or 0))
        else:
            reply.body = self.rest()
        return reply


KINDS: dict[str, type[Worker]] = {"sync": SyncWorker, "threads": ThreadsWorker}
