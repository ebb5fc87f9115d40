"""The way out to a client: what is on its way to it, and the last words."""

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefork_sd.workers.terms import Terms
from prefork_sd.wsgi import FileSlice, Piece, Response

SLICE, SLICES = 1 << 20, 8  # bytes sent by one sendfile(2); how many before others' turn
LINGER_NOT = struct.pack("ii", 1, 0)  # l_onoff, l_linger of socket(7)
IOV_MAX = 1024  # of one writev(2)
LONGEST_WAIT = 1e6  # seconds that poll(2) can wait, and some reserve


class Outlet:
    """A client's socket, as far as something is sent there, or it is closed.

    It is a mere descriptor: an object for it would cost a third of a short connection.
    """

    __slots__ = ("ended", "fd", "response", "terms")

    def __init__(self, terms: Terms, fd: int) -> None:
        self.terms = terms
        self.fd = fd
        self.response: Response | None = None
        self.ended = False  # the client will send nothing more

    def send(self) -> bool:
        """Send what is on its way; True if nothing of it is left. Raises OSError: client gone."""
        response = self.response
        if response is None:
            return True
        out = response.out
        if len(out) == 1 and type(only := out[0]) is bytes:  # nearly always
            try:
                sent = os.write(self.fd, only)
            except BlockingIOError:
                return False
            response.started = True
            response.pending -= sent
            if sent == len(only):
                out.clear()
                return True
            out[0] = memoryview(only)[sent:]
            return False
        while out:
            first = out[0]
            if isinstance(first, FileSlice):
                if not self._send_file(first):
                    return False
                del out[0]
                continue
            alone = len(out) == 1
            try:
                sent = os.write(self.fd, first) if alone else os.writev(self.fd, bytes_of(out))
            except BlockingIOError:
                return False
            response.started = True
            response.pending -= sent
            if alone and sent == len(first):
                out.clear()
            elif not taken(out, sent):
                return False
        return True

    def flush(self) -> bool:
        """Send what can be sent without waiting; False: the client is gone."""
        try:
            self.send()
        except OSError:
            return False
        return True

    def interim(self, data: bytes) -> None:
        """Send a small interim response now, or never."""
        with suppress(OSError):
            os.write(self.fd, data)

    def wait(self) -> bool:
        """Wait until everything is sent, each step for `send_timeout` at most; False: gone."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        try:
            while not self.send():
                if not poll.poll(min(self.terms.send_timeout, LONGEST_WAIT) * 1000):
                    return False
        except OSError:
            return False
        return True

    def _send_file(self, part: FileSlice) -> bool:
        """Send from a file, a few slices at a time; True when it is all sent."""
        for _ in range(SLICES):
            if part.left == 0:
                break
            try:
                sent = os.sendfile(self.fd, part.fd, part.offset, min(part.left, SLICE))
            except BlockingIOError:
                return False
            if sent == 0:
                raise ConnectionAbortedError("the file shrank while it was being sent")
            part.offset += sent
            part.left -= sent
        return part.left == 0

    def refuse(self, answer: bytes) -> None:
        """Send a last, whole answer as far as the socket takes it, and say that no more follows."""
        try:
            if answer:
                os.write(self.fd, answer)
            with self._as_socket() as sock:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended = True

    @contextmanager
    def _as_socket(self) -> Iterator[socket.socket]:
        """For what cannot be done with a mere descriptor."""
        sock = socket.socket(fileno=self.fd)
        try:
            yield sock
        finally:
            sock.detach()

    def close(self) -> None:
        os.close(self.fd)

    def abort(self) -> None:
        """Close so that the client cannot take the response for a whole one: with a reset."""
        with suppress(OSError), self._as_socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self.close()


def bytes_of(out: list[Piece]) -> list[bytes | memoryview]:
    """The pieces before the first file, as many as one writev(2) takes."""
    pieces: list[bytes | memoryview] = []
    for piece in out[:IOV_MAX]:
        if isinstance(piece, FileSlice):
            break
        pieces.append(piece)
    return pieces


def taken(out: list[Piece], sent: int) -> bool:
    """Remove the first `sent` bytes; False: the kernel took less than it was given."""
    for index, piece in enumerate(out):
        if sent == 0 or isinstance(piece, FileSlice):
            del out[:index]
            return True
        length = len(piece)
        if sent < length:
            out[: index + 1] = [memoryview(piece)[sent:]]
            return False
        sent -= length
    out.clear()
    return True
