"""A stop: what was accepted is answered, in time or not at all, and nothing is left behind."""

import contextlib
import time
from http.client import HTTPException
from signal import SIGINT, SIGQUIT, SIGTERM, Signals

import pytest

from tests.process import proc
from tests.process.systemd import Systemd


def order_of(systemd: Systemd) -> list[str]:
    """READY and STOPPING as they were said."""
    return [
        name
        for message in systemd.messages
        for name in ("READY", "STOPPING")
        if f"{name}=1" in message
    ]


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)], ids=["sync", "threads"])
def test_requests_in_flight_are_answered_in_full(systemd: Systemd, shape: tuple[int, int]) -> None:
    workers, threads = shape
    systemd.up(workers=workers, threads=threads)
    clients = [systemd.client().send("/large", close=True) for _ in range(2)]
    inside = [systemd.knock("request") for _ in clients]
    systemd.kill(SIGTERM)
    stopping = systemd.expect("STOPPING=1")
    assert f"STATUS=stopping: {workers} worker" in stopping
    extended = systemd.expect("EXTEND_TIMEOUT_USEC=")
    assert int(extended.fields["EXTEND_TIMEOUT_USEC"]) >= 30_000_000
    for visitor in inside:
        visitor.release()
    for client in clients:
        answer = client.answer()
        assert len(answer.body) == 3_000_000
    assert systemd.ended() == 0
    assert order_of(systemd) == ["READY", "STOPPING"]


def test_a_request_that_waits_in_an_accepted_connection_is_answered(systemd: Systemd) -> None:
    systemd.up(workers=1)
    client = systemd.client()
    assert client.get().version == "1"  # accepted, and idle now
    systemd.kill(SIGTERM)
    systemd.expect("STOPPING=1")
    answers = [client.get()]
    while "Connection" not in answers[-1].headers:  # the worker has not heard yet
        answers.append(client.get())
    assert {answer.status for answer in answers} == {200}
    assert answers[-1].headers["Connection"] == "close"
    assert systemd.ended() == 0


def test_an_idle_client_does_not_hold_up_a_stop(systemd: Systemd) -> None:
    systemd.up(workers=1, keepalive=60)
    client = systemd.client()
    client.get()
    began = time.monotonic()
    assert systemd.stop() == 0
    assert time.monotonic() - began < 4
    with pytest.raises((OSError, HTTPException)):
        client.get()


@pytest.mark.parametrize("signum", [SIGINT, SIGQUIT])
def test_a_quick_stop_waits_for_nobody(systemd: Systemd, signum: Signals) -> None:
    systemd.up(workers=2)
    client = systemd.client().send("/wait")
    systemd.knock("request")
    began = time.monotonic()
    assert systemd.stop(signum) == 0
    assert time.monotonic() - began < 1
    with pytest.raises((OSError, HTTPException)):
        client.answer()
    assert order_of(systemd) == ["READY", "STOPPING"]


@pytest.mark.parametrize("signum", [SIGTERM, SIGINT, SIGQUIT])
def test_a_second_signal_makes_a_stop_quick(systemd: Systemd, signum: Signals) -> None:
    systemd.up(workers=2)
    systemd.client().send("/wait")
    systemd.knock("request")
    systemd.kill(SIGTERM)
    systemd.expect("STOPPING=1")
    began = time.monotonic()
    assert systemd.stop(signum) == 0
    assert time.monotonic() - began < 1
    assert order_of(systemd) == ["READY", "STOPPING"]


def test_a_drain_has_a_limit_and_leaves_evidence(systemd: Systemd) -> None:
    systemd.up(workers=1, graceful_timeout=1)
    systemd.client().send("/wait")
    inside = systemd.knock("request")
    assert systemd.stop() == 0
    record = systemd.record(
        "worker-hung", "did not drain in time", PREFORK_SD_WORKER_PID=inside.pid
    )
    assert (record["HTTP_METHOD"], record["HTTP_PATH"]) == ("GET", "/wait")
    assert "in knock" in record["message"]


def test_a_stop_during_the_start(systemd: Systemd) -> None:
    systemd.deploy(more='knock("import")')
    systemd.start(workers=2)
    systemd.knock("import")
    systemd.knock("import")
    assert systemd.stop() == 0
    assert order_of(systemd) == ["STOPPING"]
    assert not systemd.all_records(level="error")


def test_a_quick_stop_of_hung_workers(systemd: Systemd) -> None:
    systemd.up(workers=2)
    for path in ("/freeze", "/spin"):
        systemd.client().send(path)
    busy = 0
    while busy < 2:  # a turn of the arbiter each
        busy = sum(bool(worker["in_hand"]) for worker in systemd.status()["workers"])
    assert systemd.stop(SIGQUIT) == 0


def test_workers_leave_when_the_arbiter_is_killed(systemd: Systemd) -> None:
    systemd.up(workers=3)
    idle, busy = systemd.workers(), systemd.client().send("/large")
    inside = systemd.knock("request")
    systemd.kill(Signals.SIGKILL)
    assert systemd.ended() == -Signals.SIGKILL
    for pid in idle:
        if pid != inside.pid:
            systemd.gone(pid)
    assert systemd.processes() == [inside.pid]
    inside.release()
    assert len(busy.answer().body) == 3_000_000
    systemd.gone(inside.pid)


def test_booting_workers_leave_when_the_arbiter_is_killed(systemd: Systemd) -> None:
    systemd.deploy(more='knock("import")')
    systemd.start(workers=2)
    visitors = [systemd.knock("import"), systemd.knock("import")]
    systemd.kill(Signals.SIGKILL)
    assert systemd.ended() == -Signals.SIGKILL
    for visitor in visitors:
        systemd.gone(visitor.pid)


def test_the_next_start_is_served_by_the_same_listener(systemd: Systemd) -> None:
    systemd.up(workers=1)
    assert systemd.stop() == 0
    patient = systemd.client().send("/")  # waits in the backlog that systemd holds
    systemd.deploy("2")
    systemd.again()
    assert patient.answer().version == "2"


def test_the_control_socket_is_gone_after_a_stop(systemd: Systemd) -> None:
    systemd.up(workers=1)
    assert (systemd.runtime / "control").is_socket()
    assert proc.state(systemd.pid) in "SR"
    assert systemd.stop() == 0
    assert list(systemd.runtime.iterdir()) == []
    with contextlib.suppress(FileNotFoundError):
        assert (systemd.site / "core").stat().st_size == 0
