"""Clients under way while workers come and go: none of them notices."""

from collections.abc import Iterator
from signal import SIGTTIN, SIGTTOU, SIGUSR2

import pytest

from tests.process.client import Answer, Client
from tests.process.spawning import Program
from tests.process.systemd import Systemd

SHAPES = pytest.mark.parametrize("settings", [{}, {"threads": 2}], ids=["sync", "threads"])


class Load:
    """Clients that ask in turn: half of them keep their connections, half of them do not."""

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self._kept: list[Client | None] = [None, None]
        self._turn = 0

    def ask(self) -> Answer:
        """One request, which has to be answered."""
        self._turn += 1
        if self._turn % 2:
            answer = self._systemd.get()
        else:
            place = self._turn // 2 % len(self._kept)
            client = self._kept[place] or self._systemd.client()
            answer = client.get()
            gone = answer.headers.get("Connection") == "close"
            self._kept[place] = None if gone else client
        assert answer.status == 200
        return answer

    def until(self, program: Program) -> Iterator[Answer]:
        """Ask until a program has ended."""
        while not program.ended():
            yield self.ask()


@SHAPES
def test_max_requests_loses_no_request(systemd: Systemd, settings: dict[str, int]) -> None:
    systemd.up(workers=2, max_requests=20, max_requests_jitter=5, **settings)
    load = Load(systemd)
    pids = set()
    for _ in range(5000):
        pids.add(load.ask().pid)
        if len(pids) >= 8:
            break
    assert len(pids) >= 8
    assert not systemd.all_records(level="error")
    assert not systemd.all_records(level="warn")


def test_without_a_limit_nobody_is_replaced(systemd: Systemd) -> None:
    systemd.up(workers=1)
    client = systemd.client()
    assert len({client.get().pid for _ in range(200)}) == 1


@SHAPES
def test_reloads_lose_no_request(systemd: Systemd, settings: dict[str, int]) -> None:
    systemd.up(workers=3, **settings)
    load = Load(systemd)
    for version in ("2", "3", "4"):
        systemd.deploy(version)
        client = systemd.run("reload", str(systemd.yaml))
        for answer in load.until(client):
            assert int(version) - 1 <= int(answer.version) <= int(version)
        assert client.status == 0
        assert {systemd.get().version for _ in range(10)} == {version}


def test_bad_reloads_lose_no_request(systemd: Systemd) -> None:
    systemd.up(workers=2)
    load = Load(systemd)
    systemd.write("app.py", "import no_such_module\n")
    for _ in range(3):
        client = systemd.run("reload", str(systemd.yaml))
        assert {answer.version for answer in load.until(client)} <= {"1"}
        assert client.status == 1


def test_a_changing_number_of_workers_loses_no_request(systemd: Systemd) -> None:
    systemd.up(workers=2)
    load = Load(systemd)
    for signum, ready in ((SIGTTIN, 3), (SIGTTOU, 2), (SIGTTOU, 1), (SIGTTIN, 2)):
        systemd.kill(signum)
        while not systemd.said(f"STATUS=serving: {ready} of {ready}"):
            load.ask()
        systemd.messages.clear()


def test_a_re_exec_loses_no_request(systemd: Systemd) -> None:
    systemd.up(workers=2)
    load = Load(systemd)
    systemd.deploy("2")
    systemd.kill(SIGUSR2)
    while not systemd.all_records("reload-done"):
        load.ask()
    assert {systemd.get().version for _ in range(6)} == {"2"}
