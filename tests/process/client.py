"""HTTP clients whose requests are under way while the test does something else."""

import socket
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse

PATIENCE = 10.0  # seconds for an answer


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response: `body` has all the bytes that its head promised."""

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

    def __init__(self, listener: socket.socket) -> None:
        self._sock = socket.socket(listener.family)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(listener.getsockname())
        self._connection = HTTPConnection("service")
        self._connection.sock = self._sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, path: str, *, close: bool = False) -> "Client":
        self._connection.request("GET", path, headers={"Connection": "close"} if close else {})
        return self

    def answer(self) -> Answer:
        """Raises OSError or http.client.HTTPException when there is none, or not all of it."""
        response: HTTPResponse = self._connection.getresponse()
        return Answer(response.status, response.read(), dict(response.getheaders()))

    def get(self, path: str = "/") -> Answer:
        return self.send(path).answer()

    @property
    def open(self) -> bool:
        """Whether the last response left the connection open."""
        return self._connection.sock is not None

    def close(self) -> None:
        self._connection.close()
        self._sock.close()
