"""The status socket: answers GET requests of monitoring, in the arbiter's loop, without waiting."""

import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import inf

from prefork_sd import http1
from prefork_sd.listeners import Listener

MOST_CONNECTIONS = 16
PATIENCE = 5.0  # seconds for a client to ask and to take its answer
RECEIVE = 4096

Answer = tuple[str, str, str]  # status, content type, text
Answers = Mapping[str, Callable[[str], Answer]]  # by path; they are told the Accept field


class Client:
    """One connection: a request in, an answer out, and no more."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.buffer = bytearray()
        self.out = b""
        self.reader = http1.HeadReader(http1.Limits(head=8192, line=2048, field=4096))


class StatusDoor:
    """Polled by the arbiter through `fds`; `answers` are called when somebody asks."""

    def __init__(
        self,
        listeners: Iterable[Listener],
        answers: Answers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listeners = {listener.sock.fileno(): listener for listener in listeners}
        self._answers = answers
        self._clock = clock
        self._clients: dict[int, Client] = {}
        for listener in self._listeners.values():
            listener.sock.setblocking(False)

    def fds(self) -> dict[int, int]:
        """What to poll now: descriptor to poll events."""
        wanted = dict.fromkeys(self._listeners, select.POLLIN)
        if len(self._clients) >= MOST_CONNECTIONS:
            wanted = {}
        for fd, client in self._clients.items():
            wanted[fd] = select.POLLOUT if client.out else select.POLLIN
        return wanted

    def on_event(self, fd: int) -> None:
        """Something can be done with that descriptor."""
        if listener := self._listeners.get(fd):
            self._accept(listener)
        elif client := self._clients.get(fd):
            try:
                self._serve(client)
            except OSError:
                self._close(fd)

    def _accept(self, listener: Listener) -> None:
        with suppress(OSError):
            sock, _ = listener.sock.accept()
            sock.setblocking(False)
            self._clients[sock.fileno()] = Client(sock, self._clock() + PATIENCE)

    def _serve(self, client: Client) -> None:
        fd = client.sock.fileno()
        with suppress(BlockingIOError):
            if not client.out:
                client.out = self._read(client)
            if client.out:
                client.out = client.out[client.sock.send(client.out) :]
                if client.out:
                    return
                self._close(fd)

    def _read(self, client: Client) -> bytes:
        """The answer, or nothing while the request is not whole. Raises OSError: it has left."""
        data = client.sock.recv(RECEIVE)
        client.buffer += data
        try:
            head = client.reader.read(client.buffer)
        except http1.BadRequest as error:
            return http1.error_response(error.status, str(error))
        if head is not None:
            return self._answer(head)
        if not data:
            raise ConnectionAbortedError("the client has left")
        return b""

    def _answer(self, head: http1.Head) -> bytes:
        if head.method not in ("GET", "HEAD"):
            return http1.error_response(405, "GET only")
        answer = self._answers.get(head.path)
        if answer is None:
            return http1.error_response(404, "there are " + " and ".join(self._answers))
        status, kind, text = answer(head.environ.get("HTTP_ACCEPT", ""))
        body = text.encode()
        lines = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return lines.encode() + (body if head.method == "GET" else b"")

    def _close(self, fd: int) -> None:
        self._clients.pop(fd).sock.close()

    def expire(self, now: float) -> None:
        """Close what takes too long."""
        for fd in [fd for fd, client in self._clients.items() if client.deadline <= now]:
            self._close(fd)

    def next_deadline(self) -> float:
        return min((client.deadline for client in self._clients.values()), default=inf)

    def close_in_child(self) -> None:
        """Close what a forked child has inherited."""
        for client in self._clients.values():
            client.sock.close()
        for listener in self._listeners.values():
            listener.sock.close()

    def close(self) -> None:
        """Close the clients; the listeners are the arbiter's."""
        for fd in list(self._clients):
            self._close(fd)
