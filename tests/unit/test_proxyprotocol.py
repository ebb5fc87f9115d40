"""PROXY headers of both versions, whole and cut anywhere; what is none is refused."""

import struct

import pytest

from prefork_sd.proxyprotocol import SIGNATURE, NotProxiedError, read

V4 = bytes([192, 0, 2, 7, 10, 0, 0, 1]) + struct.pack("!HH", 4711, 80)
V6 = bytes(15) + b"\x01" + bytes(15) + b"\x02" + struct.pack("!HH", 4712, 80)


def v2(command: int, family: int, data: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(data)) + data


GOOD = [
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n", ("192.0.2.7", "4711")),
    (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n", ("2001:db8::7", "4711")),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n", None),
    (v2(0x21, 0x11, V4), ("192.0.2.7", "4711")),
    (v2(0x21, 0x11, V4 + b"\x03\x00\x04tlvs"), ("192.0.2.7", "4711")),
    (v2(0x21, 0x21, V6), ("::1", "4712")),
    (v2(0x20, 0x00, b""), None),
    (v2(0x21, 0x31, bytes(216)), None),
]


@pytest.mark.parametrize(("header", "client"), GOOD)
def test_a_header_is_taken_and_what_follows_is_left(
    header: bytes, client: tuple[str, str] | None
) -> None:
    buffer = bytearray(header + b"GET / HTTP/1.1\r\n")
    assert read(buffer) == client
    assert buffer == b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize(("header", "client"), GOOD)
def test_cut_anywhere(header: bytes, client: tuple[str, str] | None) -> None:
    for cut in range(1, len(header)):
        assert read(bytearray(header[:cut])) is False


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n",
        b"PROXY TCP4 2001:db8::7 10.0.0.1 4711 80\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 +711 80\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 70000 80\r\n",
        b"PROXY TCP9 192.0.2.7 10.0.0.1 1 80\r\n",
        b"PROXY TCP4 " + b"1" * 100,
        v2(0x31, 0x11, V4),
        v2(0x21, 0x11, V4[:5]),
        v2(0x21, 0x11, bytes(5000)),
    ],
)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(NotProxiedError):
        read(bytearray(data))
