"""HTTP clients whose requests are under way while the test does something else."""

import socket
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds for an answer


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response: `body` has all the bytes that its head promised.

    The names of its headers are written like "Content-Type".
    """

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def version(self) -> str:
        """Of the app, as its index says it."""
        return self.text.split()[0]

    @property
    def pid(self) -> int:
        """Of the worker, as the index says it."""
        return int(self.text.split()[1])


class Client:
    """One connection. `send` begins a request, `answer` waits for its whole response."""

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self._sock = socket.socket(family)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(address)
        self._connection = HTTPConnection("service")
        self._connection.sock = self._sock

    @classmethod
    def of(cls, listener: socket.socket) -> "Client":
        """A connection to a listener of the test's."""
        return cls(listener.family, listener.getsockname())

    @classmethod
    def at(cls, path: Path) -> "Client":
        """A connection to a unix socket of the service's."""
        return cls(socket.AF_UNIX, str(path))

    def send(self, path: str, *, close: bool = False) -> "Client":
        self._connection.request("GET", path, headers={"Connection": "close"} if close else {})
        return self

    def answer(self) -> Answer:
        """Raises OSError or http.client.HTTPException when there is none, or not all of it."""
        response: HTTPResponse = self._connection.getresponse()
        headers = {name.title(): value for name, value in response.getheaders()}
        return Answer(response.status, response.read(), headers)

    def get(self, path: str = "/") -> Answer:
        return self.send(path).answer()

    def close(self) -> None:
        self._connection.close()
        self._sock.close()
