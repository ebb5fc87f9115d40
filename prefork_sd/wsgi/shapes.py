"""The heads of responses: checked once, encoded once, dated once a second."""

import time
from dataclasses import dataclass, field
from email.utils import formatdate

from prefork_sd import http1

Headers = list[tuple[str, str]]

# response heads remembered, for the apps that repeat theirs, and the bytes of the longest
SHAPES, LONG = 1024, 4096
JOINED = 65536  # bytes of a body that are copied, so that they leave together with the head
SERVER = b"Server: prefork-sd\r\n"
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@dataclass(slots=True, eq=False)
class Shape:
    """A checked and encoded response head, but for the lines that we add."""

    status: int
    lines: bytes
    length: int | None
    ours: bytes  # Server, unless the app said its own
    dated: bool
    bodiless: bool
    said: str  # by the app: the status line, and the headers
    headers: Headers
    kind: int = field(init=False)  # 0 for 1xx to 4 for 5xx
    plain: bool = field(init=False)  # a body of just that length follows, and not a long one
    date: bytes = field(default=b"", init=False)
    kept: bytes = field(default=b"", init=False)
    closed: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self.kind = min(self.status // 100, 5) - 1
        sized = self.length is not None and self.length <= JOINED
        self.plain = sized and not self.bodiless and 200 <= self.status < 500

    def whole(self, connection: bytes = b"", framing: bytes = b"") -> bytes:
        """All of the head, with what else it says, as lines: of the connection, of the framing."""
        date = b"" if self.dated else Clock.date()
        if framing or connection is KEEP_ALIVE:
            return b"".join((self.lines, framing, date, self.ours, connection, b"\r\n"))
        if date is not self.date or not self.kept:
            self.date = date
            self.kept = b"".join((self.lines, date, self.ours, b"\r\n"))
            self.closed = b"".join((self.lines, date, self.ours, CLOSE, b"\r\n"))
        return self.closed if connection else self.kept


_shapes: dict[tuple[str, tuple[tuple[str, str], ...]], Shape] = {}


def shape_of(status: str, headers: Headers) -> Shape:
    """Check and encode; raises ValueError or TypeError which name what PEP 3333 forbids."""
    try:
        key = (status, tuple(headers))
        if shape := _shapes.get(key):
            return shape
    except TypeError:
        raise TypeError("headers must be a list of tuples of two str") from None
    code = http1.check_status(status)
    http1.check_headers(headers)
    names = [name.lower() for name, _ in headers]
    lengths = [value.strip() for name, value in headers if name.lower() == "content-length"]
    if len(lengths) > 1 or any(not (one.isascii() and one.isdigit()) for one in lengths):
        raise ValueError(f"Content-Length must be one number, not {', '.join(lengths)}")
    if code == 204:  # says nothing of a length: RFC 9110, 8.6
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
    shape = Shape(
        status=code,
        lines=http1.encode_head(status, headers, b"").removesuffix(b"\r\n"),  # ours follow
        length=int(lengths.pop()) if lengths else None,
        ours=b"" if "server" in names else SERVER,
        dated="date" in names,
        bodiless=code in (204, 304),
        said=status,
        headers=list(headers),
    )
    if len(shape.lines) <= LONG:
        if len(_shapes) >= SHAPES:
            _shapes.clear()
        _shapes[key] = shape
    return shape


def early_hints(headers: Headers) -> bytes:
    """An interim response of status 103 (RFC 8297)."""
    return shape_of("103 Early Hints", headers).lines + b"\r\n"


class Clock:
    """The Date line (RFC 9110, 6.6.1), made once a second."""

    since = until = 0.0
    line = b""

    @classmethod
    def date(cls) -> bytes:
        now = time.time()
        if not cls.since <= now < cls.until:
            cls.since = now // 1
            cls.until = cls.since + 1
            cls.line = f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
        return cls.line
