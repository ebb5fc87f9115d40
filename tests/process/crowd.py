"""Many clients of one test on one epoll: idle ones, dripping ones, and one that is quick."""

import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.process.hearing import BOUND

HEAD = b"%b %b HTTP/1.1\r\nHost: shop\r\n"
GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
RESET = struct.pack("ii", 1, 0)  # l_onoff, l_linger of socket(7): no port is left in TIME_WAIT


def begin(method: bytes, path: bytes, more: bytes = b"") -> bytes:
    """The beginning of a request, with more fields if need be, up to the end of a line."""
    return HEAD % (method, path) + more


class Crowd:
    """Clients of one listener. All end with the `with` block, and none of them waits for long."""

    def __init__(self, listener: socket.socket) -> None:
        self._family, self._address = listener.family, listener.getsockname()
        self._poll = select.epoll()
        self._stack = ExitStack()

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._poll.close()

    def join(self, sends: bytes = b"", *, buffer: int = 0) -> socket.socket:
        """One more client, that sends this; `buffer` bytes for one that takes little at a time."""
        sock = self._stack.enter_context(self.guest(buffer))
        sock.sendall(sends)
        return sock

    def idle(self, sends: bytes = GET) -> socket.socket:
        """One that has been served, and keeps its connection."""
        sock = self.join(sends)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        return sock

    @contextmanager
    def guest(self, buffer: int = 0) -> Iterator[socket.socket]:
        """A client that does not stay."""
        with socket.socket(self._family) as sock:
            sock.settimeout(BOUND)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            if buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.connect(self._address)
            yield sock

    def watch(self, sock: socket.socket) -> None:
        """Notice when it hears something."""
        self._poll.register(sock, select.EPOLLIN)

    def unwatch(self, sock: socket.socket) -> None:
        self._poll.unregister(sock)

    def answered(self, sock: socket.socket, within: float = BOUND) -> float:
        """Wait for an answer for this client, and for no other; when it came (monotonic)."""
        heard = [fd for fd, _ in self._poll.poll(within)]
        at = time.monotonic()
        assert heard == [sock.fileno()], f"heard {heard}, not {sock.fileno()}"
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        return at


def percentile(values: Sequence[float], part: float) -> float:
    """The value that so many of them (0 to 1) do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
