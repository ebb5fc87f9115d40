"""One client behind TLS: the same protocol, with a layer between its bytes and the descriptor.

The layer works in memory: what the kernel gives goes in, what is to be sent comes out, and it waits
for nothing. So the loop waits for a readable or a writable descriptor, as it does without TLS.
"""

import os
import re
import select
import ssl
from contextlib import suppress
from typing import Any

from prefork_sd import http1
from prefork_sd.workers.connection import RECEIVE, Connection
from prefork_sd.workers.outlet import SLICE, taken
from prefork_sd.workers.terms import Terms
from prefork_sd.wsgi import Environ, FileSlice, Piece

RECORD = 16384  # bytes that one record has at most: RFC 8446, 5.1
AT_ONCE = 65536  # bytes of a response that are encrypted before the kernel gets them
MOST_UNASKED = 65536  # bytes with which the layer answers a client by itself and that it must read
NO_TLS = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")  # what OpenSSL calls a client without TLS

# RFC 4514, 3: the short forms of attributes that ssl gives in their long ones
SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
_SPECIAL = re.compile(r'[\\",+;<>\x00]|^[ #]| $')  # RFC 4514, 2.4


class TlsConnection(Connection):
    """What is received is decrypted into `buffer`, what is in `response.out` is sent encrypted."""

    __slots__ = ("_incoming", "_outgoing", "_plain", "_shaken", "_tls", "_unsent", "to_read")

    def __init__(
        self, context: ssl.SSLContext, terms: Terms, fd: int, remote: tuple[str, str]
    ) -> None:
        super().__init__(terms, fd, remote)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = memoryview(b"")  # encrypted, and not taken by the kernel yet
        self._shaken = False  # the handshake is done
        self._plain = False  # the client does not speak TLS at all
        self.to_read = select.EPOLLIN

    @property
    def bare(self) -> bool:
        return False

    def receive(self) -> bool:
        """Take what has come and decrypt it, or go on with the handshake.

        False if there is nothing new to read; then `to_read` says what to wait for. Raises OSError
        when the client is gone, and `http1.BadRequest` when there can be no TLS with it.
        """
        try:
            data = os.read(self.fd, RECEIVE)
        except BlockingIOError:
            return self._wait_to_read()
        if not data:
            self.ended = True  # HTTP knows by itself whether a request is whole
            return True
        if self.announced is not None:  # a PROXY header is not encrypted
            self.take(data)
            if not self._announce():
                return False
            data = bytes(self.buffer)
            self.buffer = b""
        self._incoming.write(data)
        if (self._shaken or self._shake_hands()) and self._decrypt():
            return True
        return self._wait_to_read()

    def _wait_to_read(self) -> bool:
        flushed = self._push()
        self.to_read = select.EPOLLIN if flushed else select.EPOLLIN | select.EPOLLOUT
        return False

    def _shake_hands(self) -> bool:
        """One step of the handshake; True when it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._plain = error.reason in NO_TLS
            reason = (error.reason or "unknown").replace("_", " ").lower()
            text = "this port is for https" if self._plain else f"no handshake for TLS: {reason}"
            raise http1.BadRequest(400, text) from None
        self._shaken = True
        try:
            self.base = {**self.base, **environ_of(self._tls)}
        except ValueError:  # a name in it that is no UTF-8
            raise http1.BadRequest(400, "the client's certificate cannot be read") from None
        return True

    def _decrypt(self) -> bool:
        """Everything that is there, because no descriptor tells of it later."""
        before = len(self.buffer)
        with suppress(ssl.SSLWantReadError):
            while True:
                data = self._tls.read(RECORD)
                self.take(data)
                if not data:
                    self.ended = True
                    break
                if not self._incoming.pending and not self._tls.pending():
                    break
        if self._outgoing.pending > MOST_UNASKED:
            raise ConnectionAbortedError("the client asks for new keys without end")
        return self.ended or len(self.buffer) > before

    def send(self) -> bool:
        """As without TLS, but for `SLICE` bytes at most: the kernel may never be full of them."""
        if self._unsent and not self._push():
            return False
        left = SLICE
        while encrypted := self._encrypt():
            left -= encrypted
            if not self._push() or left <= 0:
                return False
        return self._push()

    def _push(self) -> bool:
        """Give the kernel what is encrypted; True if nothing of it is left. Raises OSError."""
        while self._unsent or self._outgoing.pending:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            try:
                sent = os.write(self.fd, self._unsent)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]
        return True

    def _encrypt(self) -> int:
        """Encrypt a part of the response; return its bytes, 0 if there are none."""
        response = self.response
        if response is None:
            return 0
        out = response.out
        while out and isinstance(first := out[0], FileSlice):
            if first.left > 0:
                sent = self._tls.write(read_of(first))
                first.offset += sent
                first.left -= sent
                return sent
            del out[0]
        if not out:
            return 0
        sent = self._tls.write(next_of(out))
        response.started = True
        response.pending -= sent
        taken(out, sent)
        return sent

    def interim(self, data: bytes) -> None:
        if not self._unsent:
            with suppress(OSError):
                self._tls.write(data)
                self._push()

    def refuse(self, answer: bytes) -> None:
        """As without TLS; a client that has not got that far hears nothing but the alert."""
        if not self._plain:
            with suppress(OSError):
                if self._shaken and answer:
                    self._tls.write(answer)
                self._say_goodbye()
            answer = b""
        super().refuse(answer)

    def _say_goodbye(self) -> None:
        """Let the client know that nothing was cut off (RFC 8446, 6.1), and do not wait for it."""
        if self._shaken:
            with suppress(ssl.SSLError):  # that it has not said so, too
                self._tls.unwrap()
        self._push()

    def close(self) -> None:
        if self.response is None and not self._unsent:
            with suppress(OSError):
                self._say_goodbye()
        super().close()

    def abort(self) -> None:
        self._shaken = False  # no farewell: the client shall notice
        super().abort()


def read_of(part: FileSlice) -> bytes:
    """The next bytes of a file. Raises OSError."""
    data = os.pread(part.fd, min(part.left, AT_ONCE), part.offset)
    if not data:
        raise ConnectionAbortedError("the file shrank while it was being sent")
    return data


def next_of(out: list[Piece]) -> bytes | memoryview:
    """The first `AT_ONCE` bytes before a file, in one piece: small ones share a TLS record."""
    pieces: list[bytes | memoryview] = []
    room = AT_ONCE
    for piece in out:
        if isinstance(piece, FileSlice) or not room:
            break
        part = piece if len(piece) <= room else memoryview(piece)[:room]
        pieces.append(part)
        room -= len(part)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def environ_of(tls: ssl.SSLObject) -> Environ:
    """What a WSGI app learns of the connection, by the names that mod_ssl gave it."""
    cipher, certificate = tls.cipher(), tls.getpeercert(binary_form=True)
    environ = {
        "SSL_PROTOCOL": tls.version() or "",
        "SSL_CIPHER": cipher[0] if cipher else "",
        "SSL_CLIENT_VERIFY": "SUCCESS" if certificate else "NONE",
    }
    if certificate:
        environ["SSL_CLIENT_S_DN"] = name_of((tls.getpeercert() or {}).get("subject", ()))
        environ["SSL_CLIENT_CERT"] = ssl.DER_cert_to_PEM_cert(certificate)
    return environ


def name_of(subject: Any) -> str:
    """A distinguished name as RFC 4514 writes it, the most specific part first.

    UTF-8 as PEP 3333 has it: each character of the string is a byte.
    """
    parts = [
        "+".join(f"{SHORT.get(kind, kind)}={_SPECIAL.sub(_escaped, value)}" for kind, value in part)
        for part in reversed(subject)
    ]
    return ",".join(parts).encode("utf-8", "surrogateescape").decode("latin-1")


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}" if match[0] != "\0" else "\\00"
