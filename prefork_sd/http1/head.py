"""Request heads: from the bytes of a connection to one checked record for each request."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prefork_sd.http1.lines import (
    CONNECTION_OPTIONS,
    DROPPED,
    FIELD_LINES,
    REQUEST_LINES,
    RequestLine,
    parse_request_line,
    split_field,
)
from prefork_sd.http1.words import CRLF, TCHAR, BadRequest, Limits, Memo

_END = CRLF * 2
# Heads that a worker remembers, and the bytes of the longest one of them.
_MANY, _LONG = 512, 4096
_PLACES = 1024  # for the hashes of those that it has seen once

# What `parse_fields` finds, as in a `Head`: host, environ, length, chunked, keep_alive,
# expect_continue, upgrade.
Fields = tuple[str, dict[str, str], int, bool, bool, bool, bool]

_METHOD_START = re.compile(rf"[{TCHAR}]{{1,32}}+(?: |\Z)".encode())
_METHOD_TOO_LONG = re.compile(f"[{TCHAR}]{{33}}".encode())
# A control character, or a CR or LF that is not part of a CRLF.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x0c\x0e-\x1f\x7f]|\r[^\n]")

# A second one of these changes where the body ends or who answers: refused even if it is equal.
_ONCE = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"})


@dataclass(slots=True)
class Head:
    """A request head that keeps every rule of the grammar and of message framing.

    `target` is as sent; `path` is still percent-encoded ("*" for OPTIONS *); `host` is the
    authority of an absolute target, else the Host field, "" where HTTP/1.0 sent none.
    `environ` has the CGI variables of the fields only. Repeated fields are joined by "," (Cookie
    by "; "); HTTP_HOST is always `host` (RFC 9112, 3.2.2); Transfer-Encoding is left out, as the
    body is handed over decoded. `length` is the Content-Length, or 0. `expect_continue` is only set
    where a body follows. `raw` ends with CRLF CRLF.

    One that `repeats` is shared by several requests: nothing of it may be changed, but for `kept`,
    where its user keeps what it has made of it. `environ` may be shared by any.
    """

    method: str
    target: str
    path: str
    query: str
    version: str
    host: str
    environ: dict[str, str] = field(repr=False)
    length: int
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    upgrade: bool
    raw: bytes = field(repr=False)
    repeats: bool = field(default=False, compare=False, repr=False)
    kept: Any = field(default=None, compare=False, repr=False)

    @property
    def line(self) -> str:
        """The request line as sent, without its CRLF."""
        return f"{self.method} {self.target} {self.version}"

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Every field as sent, in order, also those which `environ` drops (latin-1)."""
        lines = self.raw[: -len(_END)].split(CRLF)[1:]
        pairs = map(split_field, lines)
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs]


def _lasting(part: bytes) -> bool:
    return len(part) <= _LONG


def _join(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the environ of fields of which some repeat or are dropped (RFC 9110, 5.3)."""
    environ: dict[str, str] = {}
    for key, value in pairs:
        if key not in environ:
            environ[key] = value
        elif key in _ONCE:
            raise BadRequest(400, "Host, Content-Length or Transfer-Encoding is there twice")
        elif key:
            environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + value
    environ.pop(DROPPED[0], None)
    return environ


def parse_head(raw: bytes, limits: Limits) -> Head:
    """Parse one whole head that ends with CRLF CRLF; raise BadRequest.

    Of the limits only the number of fields is looked at; the sizes are the reader's.
    """
    end = raw.index(CRLF)
    line = REQUEST_LINES[raw[:end]]
    return _head(line, parse_fields(raw[end - 1 :], limits), raw)


def parse_fields(part: bytes, limits: Limits) -> Fields:
    """Parse all of a head but its request line, of which the version's last digit is there.

    Raises BadRequest for what is wrong with the fields in that version.
    """
    digit, *lines, _, _ = part.split(CRLF)
    modern = digit == b"1"
    if len(lines) > limits.fields:
        raise BadRequest(431, "there are too many fields")
    environ = dict(map(FIELD_LINES.__getitem__, lines))
    if len(environ) != len(lines) or DROPPED[0] in environ:
        environ = _join(map(FIELD_LINES.__getitem__, lines))

    host = environ.get("HTTP_HOST")
    if host is None and modern:
        raise BadRequest(400, "HTTP/1.1 needs a Host field")

    chunked = environ.pop("HTTP_TRANSFER_ENCODING", None) is not None
    sent_length = environ.get("CONTENT_LENGTH")
    if chunked and not modern:
        raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")
    if chunked and sent_length is not None:
        raise BadRequest(400, "Content-Length and Transfer-Encoding exclude each other")
    length = int(sent_length) if sent_length else 0

    keep_alive = modern
    upgrade = False
    connection = environ.get("HTTP_CONNECTION")
    if connection is not None:
        options = CONNECTION_OPTIONS[connection]
        keep_alive = "close" not in options and (modern or "keep-alive" in options)
        upgrade = modern and "upgrade" in options and "HTTP_UPGRADE" in environ
    expects = (chunked or length > 0) and modern and "HTTP_EXPECT" in environ
    return host or "", environ, length, chunked, keep_alive, expects, upgrade


def _head(line: RequestLine, fields: Fields, raw: bytes) -> Head:
    method, target, path, query, version, authority = line
    host, environ, length, chunked, keep_alive, expects, upgrade = fields
    if authority:
        host, environ = authority, {**environ, "HTTP_HOST": authority}
    return Head(
        method,
        target,
        path,
        query,
        version,
        host,
        environ,
        length,
        chunked,
        keep_alive,
        expects,
        upgrade,
        raw,
    )


class Heads:
    """The heads that come in one piece, as most do: what was parsed before is not parsed again.

    Clients repeat theirs, each its own and all of a kind the same; and where they ask for something
    else, only the request line changes. What is full forgets everything, so that nobody can make it
    grow or keep others out of it; what never comes back takes no room from what does.
    """

    __slots__ = ("_fields", "_hashes", "_limits", "known")
    longest = _LONG  # bytes of one in `known`

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.known: dict[bytes, Head] = {}
        self._hashes = [0] * _PLACES  # of heads that have come once, each at its own place
        self._fields = Memo(lambda part: parse_fields(part, limits), _MANY, _lasting)

    def take(self, data: bytes) -> Head | None:
        """The head that `data` is, all of it; None: whatever it is, a `HeadReader` has to tell."""
        head = self.known.get(data) if len(data) <= _LONG else None
        if head is not None:
            head.repeats = True
            return head
        if not data.endswith(_END) or len(data) > self._limits.smallest:
            return None
        end = data.index(CRLF)
        try:
            head = _head(parse_request_line(data[:end]), self._fields[data[end - 1 :]], data)
        except BadRequest:
            return None  # an empty line before the end is malformed, too: it was more than one head
        if len(data) <= _LONG and self._again(data):
            if len(self.known) >= _MANY:
                self.known.clear()
            self.known[data] = head
        return head

    def first(self, buffer: bytes | bytearray) -> Head | None:
        """The head that `buffer` begins with, of which it is the `raw`; None: as for `take`."""
        end = buffer.find(_END, 0, self._limits.smallest) + len(_END)
        return self.take(bytes(buffer[:end])) if end >= len(_END) else None

    def _again(self, data: bytes) -> bool:
        """Whether it has come before, unless too many others have since; if wrong, no harm."""
        number = hash(data)
        place = number % _PLACES
        if self._hashes[place] == number:
            return True
        self._hashes[place] = number
        return False


class HeadReader:
    """Takes the heads of one connection off its buffer, cut anywhere.

    A BadRequest is final: nothing that follows it can be trusted, so there is nothing to read.
    """

    __slots__ = (
        "_fields",
        "_limits",
        "_scanned",
        "_skipped",
        "_small",
        "_start",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._small = limits.smallest
        self._forget_progress()

    def _forget_progress(self) -> None:
        self._start = 0  # where the first line begins that is not checked yet
        self._scanned = 0  # how far the buffer was searched
        self._fields = 0
        self._skipped = False

    def read(self, buffer: bytearray) -> Head | None:
        """Take one head off the buffer; None means: more bytes are needed. Raise BadRequest.

        Between two calls the buffer may only grow at its end. The verdict does not depend on
        where the bytes were cut: what is wrong first, in the order sent, is what is said, and it
        is said as soon as it is certain.
        """
        if buffer.startswith(b"\r") and not self._skip_empty_line(buffer):
            return None
        end = buffer.find(_END, max(self._scanned - 3, 0))
        if end < 0:
            self._check_lines(buffer)
            return None
        size = end + len(_END)
        if size > self._small:
            self._check_lines(buffer)
        raw = bytes(buffer) if size == len(buffer) else bytes(buffer[:size])
        try:
            head = parse_head(raw, self._limits)
        except BadRequest:
            self._check_lines(buffer)
            raise
        del buffer[:size]
        if self._scanned or self._skipped:
            self._forget_progress()
        return head

    def _skip_empty_line(self, buffer: bytearray) -> bool:
        """Skip the one CRLF that may stand before a request (RFC 9112, 2.2); False: undecided."""
        if len(buffer) == 1 and not self._skipped:
            return False
        if self._skipped or not buffer.startswith(CRLF):
            raise BadRequest(400, "the request does not begin with a method")
        self._skipped = True
        del buffer[: len(CRLF)]
        return not buffer.startswith(b"\r") or self._skip_empty_line(buffer)

    def _check_lines(self, buffer: bytearray) -> None:
        """Check, in the order sent, what no call before has: whole lines and the begun one."""
        while True:
            end = buffer.find(CRLF, max(self._start, self._scanned - 1))
            self._check_line(buffer, end)
            self._scanned = len(buffer) if end < 0 else end
            if end < 0 or end == self._start:
                return
            self._start = end + len(CRLF)

    def _check_line(self, buffer: bytearray, end: int) -> None:
        """Check the line from `_start` to `end`; -1: it is still incomplete."""
        start, limits = self._start, self._limits
        first = start == 0
        length = (len(buffer) if end < 0 else end) - start
        if end < 0 and buffer.endswith(b"\r"):
            length -= 1
        if length and not first and self._fields >= limits.fields:
            raise BadRequest(431, "there are too many fields")

        # Bytes past the limit have no say, or the verdict would depend on how many have come.
        room = min(limits.line if first else limits.field, limits.head - start - len(CRLF))
        stop = start + max(min(length, room), 0)
        if first and stop > start and not _METHOD_START.match(buffer, start, stop):
            if _METHOD_TOO_LONG.match(buffer, start, stop):
                raise BadRequest(501, "no method has a name that long")
            raise BadRequest(400, "the request does not begin with a method")
        if _FORBIDDEN.search(buffer, max(start, self._scanned - 1), stop):
            raise BadRequest(400, "there is a control character in the head")
        if length > room:
            raise BadRequest(414 if first else 431, "the head is too large")

        if length and end >= 0:
            line = bytes(buffer[start:end])
            if first:
                REQUEST_LINES[line]
            else:
                FIELD_LINES[line]
                self._fields += 1
