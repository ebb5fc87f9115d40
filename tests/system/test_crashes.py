"""Crashes and restarts under load: the listener never refuses, and service comes back."""

import time

import pytest

from tests.system.machine import Machine
from tests.system.service import HANGING_PAGE, Service
from tests.system.traffic import traffic

CLIENTS = {"port": 8000, "clients": 8, "pause": 0.01}
DELAY = 0.3  # seconds: RestartSec= of the unit
LOCAL = {"workers": 4, "bind": "127.0.0.1:8000"}


@pytest.mark.app(**LOCAL)
@pytest.mark.parametrize("keepalive", [False, True], ids=["close", "keep-alive"])
def test_five_restarts_lose_nothing(service: Service, keepalive: bool) -> None:
    with traffic(service.machine, **CLIENTS, keepalive=keepalive) as load:
        for _ in range(5):
            service.systemctl("restart")
        load.end()
    assert load.failures == []


@pytest.mark.app(**LOCAL)
def test_the_count_is_restored_each_time_a_worker_is_killed(service: Service) -> None:
    victims: set[int] = set()
    with (
        service.machine.follow(f"{service.name}.service") as journal,
        traffic(service.machine, **CLIENTS, keepalive=True) as load,
    ):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            victim = min(service.workers() - victims)
            service.machine.run(f"kill -KILL {victim}")
            victims.add(victim)
            journal.until(lambda _: len(service.workers() - victims) == 4)
        load.end()
    assert len(victims) >= 5
    for request in load.failures:
        assert request.failure in {"reset", "cut", "stale"}
        assert not request.previous or int(request.previous.split()[1]) in victims
    assert len(load.failures) <= 8 * len(victims)


@pytest.mark.app(**LOCAL)
def test_a_killed_arbiter_is_back_within_a_second(service: Service) -> None:
    """Or, where Python itself takes long to start, as soon as that allows."""
    began = service.machine.clock()
    service.systemctl("restart")
    start = service.machine.clock() - began
    old = service.pids()
    with (
        service.machine.follow(f"{service.name}.service") as journal,
        traffic(service.machine, **CLIENTS) as load,
    ):
        killed = service.machine.clock()
        service.machine.run(f"kill -KILL {service.main_pid}")
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "ready")
        requests = load.end()
    assert not old & service.pids()
    assert {request.failure for request in load.failures} <= {"reset", "cut"}
    assert len(load.failures) <= 8
    again = [one.ended for one in requests if one.body and int(one.body.split()[1]) not in old]
    assert min(again) - killed < max(1, DELAY + 2 * start)


@pytest.mark.app(HANGING_PAGE, **LOCAL, timeout=2)
def test_all_workers_hung(service: Service) -> None:
    machine = service.machine
    hung = service.workers()
    command = "exec curl -s --max-time 20 http://127.0.0.1:8000/hang"
    with machine.follow(f"{service.name}.service") as journal:
        clients = []
        for _ in hung:  # one after the other, so that each finds a worker that is free
            clients.append(machine.start(command))
            journal.until(lambda record: record["MESSAGE"] == "about to hang")
        began = machine.clock()
        for _ in hung:
            record = journal.until(lambda record: "stuck_here" in str(record["MESSAGE"]))
            assert record["HTTP_PATH"] == "/hang"
        machine.curl("http://127.0.0.1:8000/", timeout=10)
        assert machine.clock() - began < 2 + 2  # `timeout`, and two seconds
    for client in clients:
        client.wait(30)
    assert not hung & service.workers()


@pytest.mark.app(**LOCAL)
def test_a_crash_loop_is_slow_and_heals(service: Service) -> None:
    machine = service.machine
    service.deploy("import nothing_of_this_name")
    with machine.follow(f"{service.name}.service") as journal:
        machine.run("kill -KILL " + " ".join(map(str, service.workers())))
        journal.silence(5)
        failed = [
            record
            for record in journal.seen
            if record.get("PREFORK_SD_EVENT") == "worker-boot-failed"
        ]
    assert 1 <= len(failed) <= 12
    with machine.start("exec curl -sS --max-time 50 http://127.0.0.1:8000/", stdout=-1) as client:
        service.deploy(service.version("2"))
        page, _ = client.communicate(timeout=60)
    assert page.split()[0] == "2"


def test_a_start_that_fails_again_and_again_is_slow(machine: Machine) -> None:
    service = Service(machine, "neverready", "import nothing_of_this_name")
    service.systemctl("start", check=False)
    with machine.follow("neverready.service") as journal:
        journal.silence(5)
    assert 1 <= int(service.show("NRestarts")) <= 10
    assert machine.show("neverready.socket", "ActiveState") == "active"
    service.remove()
