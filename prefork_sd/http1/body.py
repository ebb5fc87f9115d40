"""Request bodies: of a known length or chunked, decoded from bytes that may be cut anywhere."""

import re
from collections.abc import Callable

from prefork_sd.http1.head import Head
from prefork_sd.http1.lines import split_field
from prefork_sd.http1.words import CRLF, FIELD_VALUE, TCHAR, BadRequest, Limits

# RFC 9112, 7.1.1, without the "bad whitespace" around ";" and "=", which nobody has to send.
# No group of these is possessive: gh-106052, see `lines`.
_QUOTED = r'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]++|\\[\t\x20-\x7e\x80-\xff])*"'
_EXTENSION = rf"(?:;[{TCHAR}]++(?:=(?:[{TCHAR}]++|{_QUOTED}))?)*"
_SIZE_LINE = re.compile(rf"([0-9A-Fa-f]{{1,16}}+)({_EXTENSION})\r\n".encode())
_SIZE_LINE_START = re.compile(rf"(?:[0-9A-Fa-f]{{1,16}}+(?:;{FIELD_VALUE})?\r?)?".encode())
# From the end of one chunk's data to the next one's: what nearly all clients send there.
_NEXT_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,16}+)\r\n")
_TRAILER_START = re.compile(rf"(?:[{TCHAR}]++(?::{FIELD_VALUE})?)?\r?".encode())

# RFC 9110, 6.5.1: fields for framing, routing, request modifiers, authentication, response control
# and content; in a trailer they would come after all that was decided by them.
_FORBIDDEN = re.compile(
    rb"content-.*|if-.*|proxy.*|x-forwarded-.*|forwarded|via|x-real-ip|host|transfer-encoding|te"
    rb"|trailer|connection|keep-alive|upgrade|expect|range|max-forwards|cache-control|pragma"
    rb"|authorization|cookie|set-cookie|www-authenticate|authentication-info|age|date|expires"
    rb"|location|retry-after|vary|warning",
    re.IGNORECASE,
)


class FixedBody:
    """A body of `length` bytes (RFC 9112, 6.2)."""

    __slots__ = ("_left", "done")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def take(self, size: int) -> bool:
        """Count so many bytes as its own; False, and nothing counts, if it has not that many."""
        if size > self._left:
            return False
        self._left -= size
        self.done = self._left == 0
        return True

    def read(self, buffer: bytearray) -> bytes:
        """Take what is there off the buffer, at most what remains of the body."""
        if len(buffer) <= self._left:
            data = bytes(buffer)
            buffer.clear()
        else:
            data = bytes(buffer[: self._left])
            del buffer[: self._left]
        self._left -= len(data)
        self.done = self._left == 0
        return data


class ChunkedBody:
    """A chunked body (RFC 9112, 7.1). `trailers` is complete when `done`: latin-1, as sent.

    A chunk size has at most 16 hex digits. Trailers with "_" in their name are dropped, those that
    RFC 9110, 6.5.1 forbids are refused.
    """

    __slots__ = ("_left", "_limits", "_step", "_total", "_trailer_bytes", "done", "trailers")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = 0
        self._total = 0
        self._trailer_bytes = 0
        # Takes what it knows from the buffer at a position; returns the next one, -1 to wait.
        self._step: Callable[[bytearray, int, list[bytearray]], int] = self._size
        self.done = False
        self.trailers: list[tuple[str, str]] = []

    def read(self, buffer: bytearray) -> bytes:
        """Take what is there off the buffer and return what it decodes to; raise BadRequest.

        A body that would pass `limits.body` is refused (413) at the chunk size that says so.
        """
        data: list[bytearray] = []
        position = 0
        while not self.done and (after := self._step(buffer, position, data)) >= 0:
            position = after
        del buffer[:position]
        return b"".join(data)

    def _size(self, buffer: bytearray, position: int, data: list[bytearray]) -> int:
        limits = self._limits
        end = position + 16 + limits.chunk_extension + len(CRLF)  # what is past it has no say
        if not (match := _SIZE_LINE.match(buffer, position, end)):
            if not _SIZE_LINE_START.fullmatch(buffer, position, end):
                raise BadRequest(400, "a chunk size is malformed")
            if len(buffer) > end:
                raise BadRequest(400, "a chunk extension is too long")
            return -1
        if match.end(2) - match.start(2) > limits.chunk_extension:
            raise BadRequest(400, "a chunk extension is too long")
        self._begin(int(match[1], 16))
        return match.end()

    def _begin(self, size: int) -> None:
        """Expect the data of the next chunk, or what follows the last one."""
        self._total += size
        if self._total > self._limits.body > 0:
            raise BadRequest(413, "the body is too large")
        self._left = size
        self._step = self._data if size else self._trailer

    def _data(self, buffer: bytearray, position: int, data: list[bytearray]) -> int:
        """Small chunks in a row at once: a client may send thousands in one packet."""
        begun = position
        while piece := buffer[position : position + self._left]:
            data.append(piece)
            position += len(piece)
            self._left -= len(piece)
            if self._left:
                return position
            if not (match := _NEXT_SIZE.match(buffer, position)):
                self._step = self._data_end
                return position
            self._begin(int(match[1], 16))
            position = match.end()
        return position if position > begun else -1

    def _data_end(self, buffer: bytearray, position: int, data: list[bytearray]) -> int:
        end = buffer[position : position + len(CRLF)]
        if not CRLF.startswith(end):
            raise BadRequest(400, "a chunk is longer than its size")
        if len(end) < len(CRLF):
            return -1
        self._step = self._size
        return position + len(CRLF)

    def _trailer(self, buffer: bytearray, position: int, data: list[bytearray]) -> int:
        end = buffer.find(CRLF, position)
        line = bytes(buffer[position : len(buffer) if end < 0 else end])
        room = self._limits.trailers - self._trailer_bytes - len(CRLF)
        # As in a head, bytes past the limit have no say.
        if not _TRAILER_START.fullmatch(line[: max(room, 0)]):
            raise BadRequest(400, "a trailer field is malformed")
        if len(line) - (end < 0 and line.endswith(b"\r")) > room:
            raise BadRequest(431, "the trailers are too large")
        if end < 0:
            return -1
        if line:
            self._take_trailer(line)
        else:
            self.done = True
        return end + len(CRLF)

    def _take_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + len(CRLF)
        name, value = split_field(line)
        if len(self.trailers) >= self._limits.fields:
            raise BadRequest(431, "there are too many trailer fields")
        if _FORBIDDEN.fullmatch(name):
            raise BadRequest(400, "a field is not allowed as a trailer")
        if b"_" not in name:
            self.trailers.append((name.decode("latin-1"), value.decode("latin-1")))


def body_reader(head: Head, limits: Limits) -> FixedBody | ChunkedBody | None:
    """Return what reads the body of this request, None where it has none; raise BadRequest 413."""
    if head.chunked:
        return ChunkedBody(limits)
    if head.length > limits.body > 0:
        raise BadRequest(413, "the body is too large")
    return FixedBody(head.length) if head.length else None
