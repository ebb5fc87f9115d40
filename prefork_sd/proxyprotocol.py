"""The PROXY protocol, versions 1 and 2: who the client of a TCP proxy is. Knows no socket.

Source: "The PROXY protocol", haproxy.org, sections 2.1 and 2.2.
"""

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
SHORTEST_V1 = b"PROXY UNKNOWN\r\n"
MOST_V1 = 107  # bytes of a version 1 line, with its CRLF
MOST_V2 = 4096  # bytes of a version 2 header that we are willing to skip
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6 = 0x11, 0x21


class NotProxiedError(ValueError):
    """The connection does not begin with a PROXY header."""


def read(buffer: bytearray) -> tuple[str, str] | bool | None:
    """Take the header off the buffer.

    Returns (address, port) of the client; None where the proxy speaks for itself (LOCAL, UNKNOWN);
    False: more bytes are needed. Raises NotProxiedError.
    """
    if buffer.startswith(SIGNATURE[: len(buffer)]):
        return _version2(buffer)
    if buffer.startswith(b"PROXY "[: len(buffer)]):
        return _version1(buffer)
    raise NotProxiedError("the connection does not begin with a PROXY header")


def at_least_missing(buffer: bytearray) -> int:
    """How many bytes surely still belong to the header that the buffer begins with, at least 1."""
    if len(buffer) >= 16 and buffer.startswith(SIGNATURE):
        length: int = struct.unpack_from("!H", buffer, 14)[0]
        return max(1, 16 + min(length, MOST_V2) - len(buffer))
    return max(1, len(SHORTEST_V1) - len(buffer))


def _version1(buffer: bytearray) -> tuple[str, str] | bool | None:
    end = buffer.find(b"\r\n", 0, MOST_V1)
    if end < 0:
        if len(buffer) >= MOST_V1:
            raise NotProxiedError("the PROXY line is too long")
        return False
    words = bytes(buffer[:end]).split(b" ")
    del buffer[: end + 2]
    if words[1:2] == [b"UNKNOWN"]:
        return None
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise NotProxiedError("the PROXY line is malformed")
    kind = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        address, port = str(kind(words[2].decode("ascii"))), int(words[4])
        kind(words[3].decode("ascii"))
    except ValueError:
        raise NotProxiedError("the PROXY line is malformed") from None
    if not (words[4].isdigit() and 0 <= port <= 65535):
        raise NotProxiedError("the PROXY line is malformed")
    return address, str(port)


def _version2(buffer: bytearray) -> tuple[str, str] | bool | None:
    if len(buffer) < 16:
        return False
    command, family, length = buffer[12], buffer[13], struct.unpack_from("!H", buffer, 14)[0]
    if command not in (LOCAL, PROXY) or length > MOST_V2:
        raise NotProxiedError("the PROXY header is malformed")
    if len(buffer) < 16 + length:
        return False
    data = bytes(buffer[16 : 16 + length])
    del buffer[: 16 + length]
    if command == LOCAL:
        return None
    if family == TCP4 and length >= 12:
        return str(ipaddress.IPv4Address(data[:4])), str(struct.unpack_from("!H", data, 8)[0])
    if family == TCP6 and length >= 36:
        return str(ipaddress.IPv6Address(data[:16])), str(struct.unpack_from("!H", data, 32)[0])
    if family in (TCP4, TCP6):
        raise NotProxiedError("the PROXY header is malformed")
    return None
