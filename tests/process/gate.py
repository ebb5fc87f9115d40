"""Where an app under test waits until the test lets it go: no sleep, and the test knows."""

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Visitor:
    """A process that knocked, and waits."""

    pid: int
    what: str
    sock: socket.socket

    def release(self, word: str = "go") -> None:
        """Let it go on. One that was killed meanwhile is no error."""
        with contextlib.suppress(OSError):
            self.sock.sendall(word.encode())
        self.sock.close()


class Gate:
    """A unix socket; app.py's `knock` is the other side of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(path))
        self._sock.listen(64)
        self._sock.setblocking(False)
        self._visitors: list[Visitor] = []

    def fileno(self) -> int:
        return self._sock.fileno()

    def admit(self) -> Visitor | None:
        """Who knocked first of those not admitted yet."""
        while True:
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return None
            sock.settimeout(10)
            with sock.makefile() as lines:
                pid, _, what = lines.readline().strip().partition(" ")
            if what:
                self._visitors.append(Visitor(int(pid), what, sock))
                return self._visitors[-1]
            sock.close()  # killed before it could say who it is

    def open(self) -> None:
        """Let everybody go, those to come too."""
        self._sock.close()
        for visitor in self._visitors:
            visitor.release()
