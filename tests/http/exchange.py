"""What a connection's bytes mean to our grammar: the requests it has, and how it ends."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from prefork_sd.http1 import (
    BadRequest,
    ChunkedBody,
    FixedBody,
    Head,
    HeadReader,
    Heads,
    Limits,
    body_reader,
)


@dataclass
class Exchange:
    """All requests of a connection; `refused` is a status, 0 if nothing was refused."""

    heads: list[Head] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    trailers: list[list[tuple[str, str]]] = field(default_factory=list)
    refused: int = 0
    reason: str = field(default="", compare=False)
    waiting: bool = False  # bytes came, or a head, and the request is not complete

    @property
    def requests(self) -> list[str]:
        """Each request as "METHOD target body"."""
        return [
            f"{head.method} {head.target} {body.decode('latin-1')}".rstrip()
            for head, body in zip(self.heads, self.bodies, strict=True)
        ]


class Connection:
    """Reads requests as a worker does: the next head only after the body before it.

    After a request that closes the connection nothing more is read.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.buffer = bytearray()
        self.heads = Heads(limits)
        self.reader: HeadReader | None = None
        self.head: Head | None = None
        self.body: FixedBody | ChunkedBody | None = None
        self.data = b""
        self.exchange = Exchange()
        self.open = True

    def feed(self, data: bytes) -> None:
        if self.exchange.refused or not self.open:
            return
        self.buffer += data
        try:
            while self._step():
                pass
        except BadRequest as error:
            self.exchange.refused, self.exchange.reason = error.status, str(error)

    def _step(self) -> bool:
        if self.head is None:
            self.head = self._read()
            if self.head is None:
                return False
            self.reader = None
            self.body = body_reader(self.head, self.limits)
        if self.body is not None:
            self.data += self.body.read(self.buffer)
            if not self.body.done:
                return False
        self.exchange.heads.append(self.head)
        self.exchange.bodies.append(self.data)
        self.exchange.trailers.append(getattr(self.body, "trailers", []))
        self.open = self.head.keep_alive
        self.head, self.body, self.data = None, None, b""
        return self.open

    def _read(self) -> Head | None:
        if self.reader is None:
            if head := self.heads.take(bytes(self.buffer)):
                self.buffer.clear()
                return head
            self.reader = HeadReader(self.limits)
        return self.reader.read(self.buffer)

    def end(self) -> Exchange:
        if not self.exchange.refused and self.open:
            self.exchange.waiting = self.head is not None or len(self.buffer) > 0
        return self.exchange


def exchange(pieces: Iterable[bytes], limits: Limits | None = None) -> Exchange:
    """Return what the pieces mean as the bytes of one connection."""
    connection = Connection(limits or Limits())
    for piece in pieces:
        connection.feed(piece)
    return connection.end()


def cut_everywhere(data: bytes, limits: Limits | None = None) -> Exchange:
    """Return what `data` means, having proved that it means the same however it is cut in two."""
    whole = exchange([data], limits)
    assert exchange([data[i : i + 1] for i in range(len(data))], limits) == whole, "byte by byte"
    for at in range(1, len(data)):
        assert exchange([data[:at], data[at:]], limits) == whole, f"cut at {at}"
    return whole
