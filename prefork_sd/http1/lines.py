"""One line of a request head: the request line and its target, a field line and its environ key."""

import re
from collections.abc import Callable

from prefork_sd.http1.words import FIELD_VALUE, TCHAR, BadRequest, Memo, short

# A field that must not reach an environ, as a pair; see `parse_field`.
DROPPED = ("", "")

_HEX = "[0-9A-Fa-f]"
_UNRESERVED = r"A-Za-z0-9\-._~"
_SUB_DELIMS = "!$&'()*+,;="


def _host_grammar() -> str:
    """Return the regex of `uri-host [":" port]` with a host that is not empty (RFC 3986, 3.2.2)."""
    octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    ipv4 = rf"{octet}(?:\.{octet}){{3}}"
    h16 = f"{_HEX}{{1,4}}"
    ls32 = f"(?:{h16}:{h16}|{ipv4})"
    ipv6 = [f"(?:{h16}:){{6}}{ls32}", f"::(?:{h16}:){{5}}{ls32}"]
    for before in range(1, 8):
        after = {6: h16, 7: ""}.get(before, f"(?:{h16}:){{{5 - before}}}{ls32}")
        ipv6.append(f"(?:(?:{h16}:){{0,{before - 1}}}{h16})?::{after}")
    future = rf"[vV]{_HEX}+\.[{_UNRESERVED}{_SUB_DELIMS}:]+"
    name = rf"(?:[{_UNRESERVED}{_SUB_DELIMS}]++|%{_HEX}{{2}})+"
    return rf"(?:\[(?:{'|'.join(ipv6)}|{future})\]|{name})(?::[0-9]{{0,5}})?"


# RFC 3986's characters and, raw as browsers send them, [ ] ^ ` { | }. In a query also \ and a %
# that escapes nothing. Never " < > (browsers escape them) and never # (it is no part of a target).
_PATH_CHARS = rf"[{_UNRESERVED}{_SUB_DELIMS}:@/\[\]^`{{|}}]*+"
# No possessive group, here and in what follows: up to CPython 3.11.4 (gh-106052) one that fails
# halfway through a round goes on from there. Only one way leads through each, anyway.
_PATH = rf"/{_PATH_CHARS}(?:%{_HEX}{{2}}{_PATH_CHARS})*"
_QUERY = r"(?:\?([\x21\x24-\x3b\x3d\x3f-\x7e]*+))?"

_REQUEST_LINE = re.compile(rb"([%b]{1,32}) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])" % TCHAR.encode())
# With a target in origin-form, as nearly all have: one match says everything.
_ORIGIN_LINE = re.compile(rf"([{TCHAR}]{{1,32}}+) (({_PATH}){_QUERY}) (HTTP/1\.[01])")
_ABSOLUTE_FORM = re.compile(rf"(?i:https?)://([^/?]+)({_PATH})?{_QUERY}")
_HOST = re.compile(_host_grammar())
_FIELD = re.compile(rf"([{TCHAR}]+):({FIELD_VALUE})".encode())
_DIGITS = re.compile("[0-9]+")
_TOKEN = re.compile(f"[{TCHAR}]+")

# method, target, path, query, version, authority of an absolute target
RequestLine = tuple[str, str, str, str, str, str]


def parse_request_line(line: bytes) -> RequestLine:
    """Parse a request line without its CRLF (RFC 9112, 3); raise BadRequest 400, 501 or 505.

    A path is what RFC 3986 allows (a broken percent escape is refused) plus the few characters
    that browsers send raw; see `_PATH_CHARS`. An absolute target has no userinfo (RFC 9110, 4.2.4).
    """
    if (origin := _ORIGIN_LINE.fullmatch(line.decode("latin-1"))) and origin[1] != "CONNECT":
        method, target, path, query, version = origin.groups("")
        return method, target, path, query, version, ""
    if not (match := _REQUEST_LINE.fullmatch(line)):
        raise BadRequest(400, "the request line is malformed")
    method, target, number = match[1].decode(), match[2].decode(), match[3].decode()
    if number not in ("1.1", "1.0"):
        raise BadRequest(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    version = f"HTTP/{number}"
    if method == "CONNECT":
        raise BadRequest(501, "CONNECT is not implemented")
    if target == "*" and method == "OPTIONS":
        return method, target, target, "", version, ""
    if match_absolute := _ABSOLUTE_FORM.fullmatch(target):
        authority, path, query = match_absolute.groups()
        if _HOST.fullmatch(authority):
            return method, target, path or "/", query or "", version, authority
    raise BadRequest(400, "the request target is malformed")


def _host(value: str) -> None:
    if not _HOST.fullmatch(value):
        raise BadRequest(400, "Host is not a host and a port")


def _content_length(value: str) -> None:
    if not _DIGITS.fullmatch(value):
        raise BadRequest(400, "Content-Length is not a number")
    if len(value) > 18:
        raise BadRequest(413, "Content-Length is too large")


def _transfer_encoding(value: str) -> None:
    if value.lower() != "chunked":
        raise BadRequest(501, "no transfer coding but chunked is implemented")


def _expect(value: str) -> None:
    if value.lower() != "100-continue":
        raise BadRequest(417, "no expectation but 100-continue is met")


def connection_options(value: str) -> frozenset[str]:
    """Return the lower-case options of a Connection field (RFC 9110, 7.6.1), or raise BadRequest.

    Empty list elements are allowed, anything that is not a token is not.
    """
    options = [option.strip(" \t") for option in value.lower().split(",")]
    if any(option and not _TOKEN.fullmatch(option) for option in options):
        raise BadRequest(400, "Connection is not a list of tokens")
    return frozenset(options)


_CHECKS: dict[str, Callable[[str], object]] = {
    "HTTP_HOST": _host,
    "CONTENT_LENGTH": _content_length,
    "HTTP_TRANSFER_ENCODING": _transfer_encoding,
    "HTTP_EXPECT": _expect,
    "HTTP_CONNECTION": connection_options,
}


def _environ_key(name: bytes) -> str:
    """Return the CGI name of a field (RFC 3875, 4.1.18), or "" for one that has to be dropped.

    Names with "_" would alias those with "-". Proxy would become HTTP_PROXY, which libraries take
    for a setting (httpoxy).
    """
    if b"_" in name:
        return ""
    key = name.decode().upper().replace("-", "_")
    if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        return key
    return "" if key == "PROXY" else f"HTTP_{key}"


_KEYS = Memo(_environ_key, 512, short)


def split_field(line: bytes) -> tuple[bytes, bytes]:
    """Return name and value of a field line without its CRLF (RFC 9112, 5); or BadRequest 400."""
    if not (match := _FIELD.fullmatch(line)):
        raise BadRequest(400, "a field line is malformed")
    return match[1], match[2].strip(b" \t")


def parse_field(line: bytes) -> tuple[str, str]:
    """Return environ key and value of a field line, or DROPPED; raise BadRequest.

    The values of fields that we act upon are checked here, so that a line that was seen before is
    a line that needs no check.
    """
    name, raw_value = split_field(line)
    key = _KEYS[name]
    if not key:
        return DROPPED
    value = raw_value.decode("latin-1")
    if check := _CHECKS.get(key):
        check(value)
    return key, value


REQUEST_LINES = Memo(parse_request_line, 512, short)
FIELD_LINES = Memo(parse_field, 1024, short)
CONNECTION_OPTIONS = Memo(connection_options, 64, short)
