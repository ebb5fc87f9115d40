"""Reload, hang, crash and stop, for each way to serve, with and without a mold.

One service for each of the ways; its tests leave it as they have found it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from tests.system.machine import Machine
from tests.system.service import Service
from tests.system.traffic import Request, traffic

PORT = 8100
CLIENTS = {"port": PORT, "clients": 8, "pause": 0.01}
RELOADS = {"trixie": 20, "bookworm": 5}
SLOW = f"curl -sS http://127.0.0.1:{PORT}/slow"
TIMEOUT = 1  # seconds that a request may hang

# Says "VERSION worker importer"; importer is who has imported the app.
COMMON = """
import asyncio, logging, os, sys, time

VERSION = "1"
IMPORTER = os.getpid()

def stuck_here():
    while True:
        time.sleep(1)

def page(path):
    logging.getLogger("shop").warning("begun %s", path)
    if path == "/hang":
        stuck_here()
    return f"{VERSION} {os.getpid()} {IMPORTER}".encode()
"""
WSGI = """
def app(environ, start_response):
    path = environ["PATH_INFO"]
    body = page(path) if path != "/" else f"{VERSION} {os.getpid()} {IMPORTER}".encode()
    if path == "/slow":
        time.sleep(0.8)
        body = b"x" * 1_000_000
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    body = page(path) if path != "/" else f"{VERSION} {os.getpid()} {IMPORTER}".encode()
    if path == "/slow":
        await asyncio.sleep(0.8)
        body = b"x" * 1_000_000
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sync": (WSGI, {"worker_class": "sync"}),
    "threads": (WSGI, {"worker_class": "threads", "threads": 4}),
    "asgi": (ASGI, {"worker_class": "asgi"}),
}
WAYS = list(product(KINDS, (False, True)))


@dataclass(frozen=True, slots=True)
class Way:
    """One service, and what it is."""

    service: Service
    preload: bool

    def status(self) -> dict[str, Any]:
        text = self.service.machine.run(f"prefork-sd status --json {self.service.name}").out
        status: dict[str, Any] = json.loads(text)
        return status

    def workers(self) -> list[int]:
        """Those that are ready, the oldest first."""
        found = [worker for worker in self.status()["workers"] if worker["state"] == "ready"]
        return [worker["pid"] for worker in sorted(found, key=lambda worker: worker["age"])]

    def molds(self) -> set[int]:
        """Processes that are neither the arbiter nor a worker."""
        workers = {worker["pid"] for worker in self.status()["workers"]}
        return self.service.pids() - workers - {self.service.main_pid}

    def importer(self) -> int:
        """Who imported the app that serves now."""
        return int(self.service.get().split()[2])

    def whole(self) -> None:
        """It serves as many workers as it should, and its mold is the one that imported the app."""
        assert len(self.workers()) == 2
        if self.preload:
            assert self.molds() == {self.importer()}
        else:
            assert self.molds() == set()
            assert self.importer() in self.workers()


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}{'-preload' * way[1]}")
def way(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Way]:
    kind, preload = request.param
    code, settings = KINDS[kind]
    name = f"{kind}-preload" if preload else kind
    bind = f"127.0.0.1:{PORT}"
    settings = {"bind": bind, "timeout": TIMEOUT, "preload_app": preload} | settings
    service = Service(machine, name, code, code=COMMON, **settings)
    service.systemctl("start")
    yield Way(service, preload)
    service.remove()


def version(request: Request) -> int:
    return int(request.body.split()[0])


def test_reloads_under_load_lose_nothing(way: Way) -> None:
    service = way.service
    returned = []
    with traffic(service.machine, **CLIENTS, keepalive=True) as load:
        for number in range(2, 2 + RELOADS[service.machine.suite]):
            old = way.importer()
            service.deploy(service.version(str(number)))
            service.systemctl("reload")
            returned.append((service.machine.clock(), number))
            assert way.importer() != old
        requests = load.end()
    assert load.failures == []
    for moment, number in returned:
        later = [one for one in requests if one.began > moment and version(one) < number]
        # a connection that was open before may have one last answer, with Connection: close
        assert len(later) <= CLIENTS["clients"]
        assert all(request.previous for request in later)
    way.whole()


def test_a_bad_reload_changes_nothing(way: Way) -> None:
    service = way.service
    before, serving, molds = way.workers(), service.get().split()[0], way.molds()
    service.deploy("import nothing_of_this_name")
    with traffic(service.machine, **CLIENTS) as load:
        assert service.systemctl("reload", check=False).status != 0
        assert "No module named 'nothing_of_this_name'" in service.show("StatusText")
        load.end()
    assert load.failures == []
    assert {request.body.split()[0] for request in load.requests} == {serving}
    assert way.workers() == before
    assert way.molds() == molds
    service.deploy(service.version(serving))
    service.systemctl("reload")
    way.whole()


def test_a_hung_worker_is_replaced_and_leaves_evidence(way: Way) -> None:
    service = way.service
    before = way.workers()
    with service.machine.follow(f"{service.name}.service") as journal:
        url = f"http://127.0.0.1:{PORT}/hang"
        page = service.machine.curl(url, "--fail", check=False)
        assert page.status != 0
        assert TIMEOUT <= page.seconds < TIMEOUT + 4
        record = journal.until(lambda record: "stuck_here" in str(record["MESSAGE"]))
        journal.until(lambda _: len(set(way.workers()) - set(before)) == 1)
    assert record["HTTP_PATH"] == "/hang"
    assert int(record["PREFORK_SD_WORKER_PID"]) in before
    way.whole()


def test_killed_workers_are_replaced(way: Way) -> None:
    service = way.service
    before = way.workers()
    with (
        service.machine.follow(f"{service.name}.service") as journal,
        traffic(service.machine, **CLIENTS) as load,
    ):
        for victim in before:
            service.machine.run(f"kill -KILL {victim}")
            journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "worker-booted")
        load.end()
    assert not set(before) & set(way.workers())
    assert {request.failure for request in load.failures} <= {"reset", "cut"}
    assert len(load.failures) <= CLIENTS["clients"] * len(before)
    way.whole()


def test_a_killed_mold_is_made_anew(way: Way) -> None:
    service = way.service
    mold = way.importer()
    if not way.preload:
        assert mold in way.workers()  # there is none
        return
    with (
        service.machine.follow(f"{service.name}.service") as journal,
        traffic(service.machine, **CLIENTS) as load,
    ):
        service.machine.run(f"kill -KILL {mold}")
        journal.until(lambda record: "the mold of generation" in str(record["MESSAGE"]))
        load.end()
        assert load.failures == []
        for victim in way.workers():
            service.machine.run(f"kill -KILL {victim}")
            journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "worker-booted")
    assert way.importer() != mold
    way.whole()


def test_what_the_app_logs_names_its_request(way: Way) -> None:
    service = way.service
    with service.machine.follow(f"{service.name}.service") as journal:
        clients = [service.machine.start(f"{SLOW} | wc -c", stdout=-1) for _ in range(2)]
        records = [journal.until(lambda one: one["MESSAGE"] == "begun /slow") for _ in clients]
        for client in clients:
            client.communicate(timeout=30)
    assert len({record["PREFORK_SD_REQUEST_ID"] for record in records}) == 2
    for record in records:
        assert (record["HTTP_METHOD"], record["HTTP_PATH"]) == ("GET", "/slow")
        assert (record["LOGGER"], record["PRIORITY"]) == ("shop", "4")
        assert int(record["PREFORK_SD_WORKER_PID"]) in way.workers()


def test_requests_in_hand_are_finished_when_it_stops(way: Way) -> None:
    service, machine = way.service, way.service.machine
    with machine.follow(f"{service.name}.service") as journal:
        clients = [machine.start(f"{SLOW} | wc -c", stdout=-1) for _ in range(2)]
        for _ in clients:
            journal.until(lambda record: record["MESSAGE"] == "begun /slow")
        machine.run(f"systemctl stop {service.name}.socket {service.name}.service")
        sizes = [client.communicate(timeout=30)[0].strip() for client in clients]
    assert sizes == ["1000000"] * 2
    assert service.show("ExecMainStatus") == "0"
    assert service.pids() == set()
    service.systemctl("start")
    way.whole()
