"""Response heads: what an app may say (PEP 3333) and the bytes that say it."""

import re
from http import HTTPStatus

from prefork_sd.http1.words import CRLF, TCHAR, Memo, short

LAST_CHUNK = b"0\r\n\r\n"

_STATUS = re.compile(r"([1-9][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_NAME = re.compile(f"[{TCHAR}]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# Framing and the connection are the server's (PEP 3333, "Other HTTP Features").
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)


def check_status(status: str) -> int:
    """Return the code of a status like "200 OK" (PEP 3333); raise ValueError."""
    if type(status) is not str:
        raise ValueError(f"status is {type(status).__name__}, not str")
    return _STATUSES[status][0]


def check_headers(headers: list[tuple[str, str]]) -> None:
    """Check the headers of an app (PEP 3333); raise ValueError that names the one at fault."""
    _header_lines(headers)


def encode_head(status: str, headers: list[tuple[str, str]], extra: bytes) -> bytes:
    """Return status line, headers, `extra` (whole lines that are ready to send) and the empty line.

    Raises ValueError as `check_status` and `check_headers` do. What was checked and encoded before
    is neither again.
    """
    return b"".join((_STATUSES[status][1], *_header_lines(headers), extra, CRLF))


def _header_lines(headers: list[tuple[str, str]]) -> list[bytes]:
    if type(headers) is not list:
        raise ValueError(f"headers are {type(headers).__name__}, not a list")
    try:
        return list(map(_HEADER_LINES.__getitem__, headers))
    except TypeError:  # what has no hash is no tuple of strings
        for header in headers:
            _check_header(header)
        raise


def _check_header(header: tuple[str, str]) -> None:
    if type(header) is not tuple or len(header) != 2:
        raise ValueError("a header is not a tuple (name, value)")
    name, value = header
    if type(name) is not str or not _NAME.fullmatch(name):
        raise ValueError(f"header {name!r}: its name is not a token")
    if type(value) is not str:
        raise ValueError(f"header {name!r}: its value is {type(value).__name__}, not str")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"header {name!r}: its value has control characters or is not latin-1")
    if name.lower() in _HOP_BY_HOP:
        raise ValueError(f"header {name!r}: hop-by-hop headers are the server's")


def _parse_status(status: str) -> tuple[int, bytes]:
    if not (match := _STATUS.fullmatch(status)):
        raise ValueError('status is not three digits, a space and a reason, like "200 OK"')
    return int(match[1]), b"HTTP/1.1 %b\r\n" % status.encode("latin-1")


def _header_line(header: tuple[str, str]) -> bytes:
    _check_header(header)
    return "{}: {}\r\n".format(*header).encode("latin-1")


def _short_header(header: tuple[str, str]) -> bool:
    return len(header[0]) + len(header[1]) <= 256


_STATUSES = Memo(_parse_status, 128, short)
_HEADER_LINES = Memo(_header_line, 1024, _short_header)


def error_response(status: int, text: str = "", extra: bytes = b"") -> bytes:
    """Return a whole text/plain response that closes the connection.

    `text` must not have what the client sent in it; `extra` are whole lines such as Date.
    """
    phrase = HTTPStatus(status).phrase
    body = f"{status} {phrase}{': ' if text else ''}{text}\n".encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n"
    )
    return b"".join((head.encode("ascii"), extra, CRLF, body))


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk; nothing for no data, as an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
