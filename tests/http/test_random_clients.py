"""Many clients who do anything at once: everybody gets their own, and everything is counted."""

import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from signal import SIGTERM

import pytest

from prefork_sd.workers import hearing, together
from tests.http.apps import TEXT
from tests.http.conftest import Serve
from tests.http.serving import Client, Environ, StartResponse
from tests.http.test_together import patient, prove, request

__all__ = ["patient"]

ROUNDS, MOST = 120, 150  # in each test; clients
PLAIN = ["plain"] * 12
KINDS = [*PLAIN, "big", "generator", "two", "write", "error", "missing", "hint", "post", "long"]
SIZES = [hearing.SMALL, hearing.LONGEST, 2000, 6000]  # about the bytes of a long request


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path: str = environ["PATH_INFO"]
    kind = path.split("/")[1]
    size = len(environ["wsgi.input"].read())
    words = (path, environ["REMOTE_PORT"], size, environ["PREFORK_SD_REQUEST_ID"], "")
    data = " ".join(map(str, words)).encode() + b"x" * (60000 if kind == "big" else 0)
    headers = [*TEXT, ("Content-Length", str(len(data)))]
    if kind == "hint":
        environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload")])
    write = start_response(
        "404 Not Found" if kind == "missing" else "200 OK", TEXT if kind == "two" else headers
    )
    if kind == "error":
        raise ValueError("on purpose")
    if kind == "write":
        write(data)
        return []
    if kind == "generator":
        return (piece for piece in [data])
    return [data[:5], data[5:]] if kind == "two" else [data]


@dataclass
class Asked:
    kind: str
    path: str
    size: int  # bytes of the body

    def expect(self, client: Client) -> str:
        """Read the answer, which has to be that; return the request's id, if it says one."""
        reply = client.reply()
        if self.kind == "hint":
            assert reply.status == 103
            reply = client.reply()
        assert reply.status == {"error": 500, "missing": 404}.get(self.kind, 200)
        if self.kind == "error":
            return ""
        path, port, size, own_id, _ = reply.text.split(" ")
        assert (path, port, size) == (self.path, str(client.sock.getsockname()[1]), str(self.size))
        return own_id


class Crowd:
    """Clients, what each has asked, and who has said that nothing more comes."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clients: list[Client] = []

    def one(self, last: bool) -> tuple[Asked, bytes]:
        kind = self.chance.choice(KINDS)
        path = f"/{kind}" if kind == "plain" else f"/{kind}/{self.chance.randrange(10**6)}"
        fields = ["Connection: close"] * last
        size = 0
        if kind == "long":
            room = self.chance.choice(SIZES) + self.chance.randrange(-1, 2)
            fields.append(f"X: {'x' * (room - len(request(path, *fields, 'X: ')))}")
        if kind == "post":
            size = self.chance.choice([1, 300, 5000, 120_000])
            fields.append(f"Content-Length: {size}")
        return Asked(kind, path, size), request(path, *fields) + bytes(size)

    def send(self, client: Client, data: bytes, half: bool) -> None:
        """It may be more than what the kernel takes while nobody reads."""
        client.send(data)
        if half:
            client.end()

    def ask(self, client: Client) -> tuple[list[Asked], bool]:
        """Send one request or some; also, whether these are the last ones."""
        closes, half = self.chance.random() < 0.03, self.chance.random() < 0.03
        many = self.chance.choice([1, 1, 1, 1, 1, 2, 5])
        asked = [self.one(closes and left == 0) for left in reversed(range(many))]
        data = b"".join(piece for _, piece in asked)
        threading.Thread(target=self.send, args=[client, data, half], daemon=True).start()
        return [one for one, _ in asked], closes or half


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.usefixtures("patient")
def test_everybody_gets_their_own_and_everything_is_counted(serve_sync: Serve, seed: int) -> None:
    served = serve_sync(app)
    prove(served)
    crowd = Crowd(seed)
    chance, clients, ids = crowd.chance, crowd.clients, set[str]()
    count = errors = 0
    for _ in range(ROUNDS):
        with served.stopped():
            for _ in range(min(chance.randrange(4), MOST - len(clients))):
                clients.append(served.connect(buffer=chance.choice([0, 0, 0, 2048])))
            asking = chance.sample(clients, chance.randrange(len(clients) + 1))
            asked = [(client, *crowd.ask(client)) for client in asking]
        chance.shuffle(asked)
        for client, requests, over in asked:
            for one in requests:
                count += 1
                if own_id := one.expect(client):
                    assert own_id not in ids
                    ids.add(own_id)
                else:
                    errors += 1
            if over:
                assert client.rest() == b""
                clients.remove(client)
    served.signal(SIGTERM)
    assert served.exit().status == 0
    assert served.slot.served.requests == count + 3 * together.PROVEN
    assert served.slot.served.errors == errors
