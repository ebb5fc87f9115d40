"""A WebSocket client that hides nothing: RFC 6455, as much of it as the tests need."""

import os
import socket
import struct
from dataclasses import dataclass

PATIENCE = 10.0  # seconds for a frame
TEXT, CLOSE = 1, 8
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: service\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the server's."""

    kind: int
    data: bytes

    @property
    def text(self) -> str:
        assert self.kind == TEXT, self
        return self.data.decode()

    @property
    def code(self) -> int:
        """Why it closes."""
        assert self.kind == CLOSE, self
        return int.from_bytes(self.data[:2], "big")


class WebSocket:
    """One connection, from the handshake on. `status` is that of the handshake."""

    def __init__(self, listener: socket.socket, path: str = "/") -> None:
        self._sock = socket.socket(listener.family)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(listener.getsockname())
        self._sock.sendall(HANDSHAKE.format(path=path).encode())
        self._file = self._sock.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline().strip():
            pass

    def frame(self) -> Frame:
        """The next frame."""
        first, second = self._file.read(2)
        assert first & 0x80, "a fragment"
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", self._file.read(2))
        return Frame(first & 0x0F, self._file.read(size))

    def send(self, kind: int, data: bytes) -> None:
        """One frame, masked as a client has to."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
        self._sock.sendall(bytes([0x80 | kind, 0x80 | len(data)]) + mask + masked)

    def say(self, text: str) -> str:
        """Say something; what comes back."""
        self.send(TEXT, text.encode())
        return self.frame().text

    def closed(self) -> int:
        """Wait for the server's close, agree to it, and wait for the end; the code."""
        frame = self.frame()
        self.send(CLOSE, frame.data)
        assert self._file.read() == b""
        self.close()
        return frame.code

    def close(self) -> None:
        self._file.close()
        self._sock.close()
