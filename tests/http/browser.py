"""A client like a browser: http.client on a kept connection, cookies, what browsers send."""

import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.cookies import SimpleCookie
from socket import SO_LINGER, SOL_SOCKET
from typing import Any
from urllib.parse import urlencode

from tests.http.serving import PATIENCE, Served

FIELDS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.7,de;q=0.3",
    "Sec-Fetch-Mode": "navigate",
}
REDIRECTS = (301, 302, 303, 307, 308)
RESET = struct.pack("ii", 1, 0)  # l_onoff, l_linger of socket(7)


@dataclass(frozen=True, slots=True)
class Page:
    """A whole response."""

    status: int
    body: bytes
    response: HTTPResponse

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def __getitem__(self, name: str) -> str | None:
        return self.response.headers[name]


class Browser:
    """One client of a worker. `connections` is how many it has needed so far."""

    def __init__(self, served: Served) -> None:
        host, port = served.listener.sock.getsockname()
        self._connection = HTTPConnection(host, port, timeout=PATIENCE)
        self._cookies: SimpleCookie = SimpleCookie()
        self.connections = 0

    def ask(
        self, method: str, path: str, body: bytes | Iterable[bytes] | None = None, **fields: str
    ) -> HTTPResponse:
        """Send a request and return the response when its head is there.

        A body that is not bytes goes out in chunks. `Content_Type="a/b"` is a field.
        """
        if self._connection.sock is None:
            self.connections += 1
        sent = FIELDS | {name.replace("_", "-"): value for name, value in fields.items()}
        if self._cookies:
            sent["Cookie"] = "; ".join(f"{k}={v.coded_value}" for k, v in self._cookies.items())
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            sent["Transfer-Encoding"] = "chunked"
        self._connection.request(method, path, body, sent, encode_chunked=chunked)
        response = self._connection.getresponse()
        for line in response.headers.get_all("Set-Cookie", []):
            self._cookies.load(line)
        return response

    def load(
        self, method: str, path: str, body: bytes | Iterable[bytes] | None = None, **fields: str
    ) -> Page:
        """Send a request and return the whole response."""
        response = self.ask(method, path, body, **fields)
        return Page(response.status, response.read(), response)

    def get(self, path: str, **fields: str) -> Page:
        return self.load("GET", path, None, **fields)

    def follow(self, page: Page) -> Page:
        """Go where a redirect leads to."""
        assert page.status in REDIRECTS
        return self.get((page["Location"] or "").removeprefix(f"http://{self.host}"))

    @property
    def host(self) -> str:
        return f"{self._connection.host}:{self._connection.port}"

    def post(self, path: str, fields: Iterable[tuple[str, str]], **more: str) -> Page:
        """Send a form."""
        kind = "application/x-www-form-urlencoded"
        return self.load("POST", path, urlencode(list(fields)).encode(), Content_Type=kind, **more)

    def cookie(self, name: str) -> str:
        return self._cookies[name].value

    def leave(self) -> None:
        """Close with a reset: what is on its way to us has no place to go."""
        self._connection.sock.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
        self.close()

    def close(self) -> None:
        self._connection.close()


@contextmanager
def browsing(served: Served) -> Iterator[Browser]:
    browser = Browser(served)
    try:
        yield browser
    finally:
        browser.close()


def multipart(name: str, content: bytes, **fields: str) -> tuple[str, bytes]:
    """A form with a file in it (RFC 7578): Content-Type and body."""
    boundary = f"----{os.urandom(16).hex()}"
    parts = [
        f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}'.encode()
        for key, value in fields.items()
    ]
    disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'
    parts.append(f"{disposition}\r\nContent-Type: application/pdf\r\n\r\n".encode() + content)
    body = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()
