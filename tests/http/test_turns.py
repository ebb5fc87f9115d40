"""How much a worker takes on at once."""

import gc
import time
from collections.abc import Iterable

import pytest

from prefork_sd.workers import loop
from prefork_sd.workers.sync import SyncWorker
from tests.http.apps import TEXT
from tests.http.conftest import Serve
from tests.http.serving import Environ, StartResponse, Wire
from tests.http.test_together import ask_at_once, patient, prove, request

__all__ = ["patient"]

CROWD = 40


class Telling(SyncWorker):
    """Says how many have been heard at once."""

    wire: Wire

    def deal(self, events: list[tuple[int, int]]) -> None:
        self.wire.say(str(len(events)))
        super().deal(events)


@pytest.mark.usefixtures("patient")
def test_a_turn_of_an_app_that_takes_its_time_is_a_short_one(serve_sync: Serve, wire: Wire) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        until = time.monotonic() + (0.001 if path == "/takes-time" else 0.0)
        while time.monotonic() < until:
            pass
        start_response("200 OK", [*TEXT, ("Content-Length", str(len(path)))])
        return [path.encode()]

    Telling.wire = wire
    served = serve_sync(app, worker=Telling)
    prove(served)
    clients = [served.connect() for _ in range(CROWD)]
    for client in clients:
        client.get("/first")

    def heard(path: str) -> list[int]:
        wire.say("asked")
        ask_at_once(served, clients, [request(path)] * CROWD)
        assert [client.reply().text for client in clients] == [path] * CROWD
        wire.say("answered")
        words = list(iter(wire.hear, "answered"))
        return [int(word) for word in words[words.index("asked") + 1 :]]

    def all_at_once() -> bool:
        """A machine that is busy with something else may make a turn a long one."""
        return any(max(heard("/quick")) == CROWD for _ in range(30))

    assert all_at_once()
    heard("/takes-time")
    assert max(heard("/takes-time")) <= 4 * loop.FEW
    assert all_at_once()


IMPORTED: list[object] = [object()]  # by the worker, together with its app


def test_the_collector_leaves_alone_what_a_worker_has_imported(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        looked_at = any(one is IMPORTED for one in gc.get_objects())
        start_response("200 OK", TEXT)
        return [str(looked_at).encode()]

    assert serve(app).get("/").text == "False"
