"""Workers that hang: found wherever they hang, gone in time, and what they did is on record."""

import os
import re
from http.client import HTTPException
from signal import SIGCONT, SIGSTOP

import pytest

from tests.process.hearing import Record
from tests.process.systemd import Systemd

CHILD = """
import subprocess

def with_child(environ):
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    knock(f"child {child.pid}")
    return spin(environ)

PAGES["/child"] = with_child
"""


def evidence(systemd: Systemd, path: str) -> Record:
    """The one record about a hung request."""
    record = systemd.record("worker-hung", HTTP_PATH=path)
    assert record["HTTP_METHOD"] == "GET"
    assert f"GET {path} in hand for " in record["message"]
    assert 'File "' in record["message"]
    assert "/prefork_sd/" not in record["message"]
    return record


@pytest.mark.parametrize(
    ("path", "frame"),
    [("/spin", "in spin"), ("/wait", "in knock"), ("/pause", "in stuck"), ("/freeze", "in stuck")],
)
def test_a_hung_request_leaves_its_stack(systemd: Systemd, path: str, frame: str) -> None:
    systemd.up(workers=1, timeout=0.5)
    client = systemd.client().send(path)
    record = evidence(systemd, path)
    assert frame in record["message"]
    assert record["level"] == "error"
    assert len(systemd.all_records("worker-hung")) == 1
    with pytest.raises((OSError, HTTPException)):
        client.answer()
    assert systemd.get().pid != record["PREFORK_SD_WORKER_PID"]


@pytest.mark.parametrize("code", ["enable", "disable"])
def test_an_app_that_uses_faulthandler_itself(systemd: Systemd, code: str) -> None:
    systemd.environ["PYTHONFAULTHANDLER"] = "1"
    systemd.deploy(more=f"import faulthandler\nfaulthandler.{code}()")
    systemd.up(workers=1, timeout=0.5)
    systemd.client().send("/spin")
    assert "in spin" in evidence(systemd, "/spin")["message"]


def test_all_workers_hung_at_once(systemd: Systemd) -> None:
    systemd.up(workers=3, timeout=0.5)
    for _ in range(3):
        systemd.client().send("/spin")
    patient = systemd.client().send("/")
    assert patient.answer().version == "1"
    for _ in range(3):
        evidence(systemd, "/spin")
    systemd.expect("STATUS=serving: 3 of 3")


def test_a_hung_request_does_not_take_its_siblings(systemd: Systemd) -> None:
    systemd.up(workers=1, threads=4, timeout=2)
    (old,) = systemd.workers()
    systemd.client().send("/pause")
    systemd.listen_for(1.0)
    assert not systemd.all_records("worker-hung")
    siblings = [systemd.client().send("/wait") for _ in range(2)]
    inside = [systemd.knock("request") for _ in siblings]
    record = evidence(systemd, "/pause")
    assert "drains" in record["message"]
    stacks = re.findall(r"Thread (\S+) with GET (\S+) .*\n  File .* in (\w+)", record["message"])
    assert sorted(where for _, *where in stacks) == [
        ["/pause", "stuck"],
        ["/wait", "knock"],
        ["/wait", "knock"],
    ]
    assert {name for name, *_ in stacks} < {f"prefork-sd-{number}" for number in range(1, 5)}
    assert systemd.get().pid != old  # a new one accepts
    for visitor in inside:
        visitor.release()
    for client in siblings:
        assert client.answer().pid == old
    systemd.gone(old)


def test_a_thread_that_holds_the_interpreter(systemd: Systemd) -> None:
    systemd.up(workers=1, threads=2, timeout=0.5)
    systemd.client().send("/freeze")
    record = evidence(systemd, "/freeze")
    assert "in stuck" in record["message"]
    assert systemd.get().pid != record["PREFORK_SD_WORKER_PID"]


def test_what_a_hung_worker_started_goes_with_it(systemd: Systemd) -> None:
    systemd.deploy(more=CHILD)
    systemd.up(workers=1, timeout=0.5)
    systemd.client().send("/child")
    visitor = systemd.knock("child")
    visitor.release()
    evidence(systemd, "/child")
    systemd.gone(int(visitor.what.split()[1]))


def test_a_stopped_worker_is_replaced(systemd: Systemd) -> None:
    systemd.up(workers=2)
    victim, other = systemd.workers()
    os.kill(victim, SIGSTOP)
    systemd.record(text="stopped by SIGSTOP")
    record = systemd.record("worker-hung", PREFORK_SD_WORKER_PID=victim)
    assert "stayed stopped for too long" in record["message"]
    systemd.expect("STATUS=serving: 2 of 2")
    assert other in systemd.workers()


def test_a_worker_that_is_continued_in_time_lives_on(systemd: Systemd) -> None:
    systemd.up(workers=1)
    (pid,) = systemd.workers()
    os.kill(pid, SIGSTOP)
    systemd.record(text="stopped by SIGSTOP")
    patient = systemd.client().send("/")
    os.kill(pid, SIGCONT)
    assert patient.answer().pid == pid
    assert not systemd.all_records("worker-hung")


def test_without_a_timeout_a_request_may_take_for_ever(systemd: Systemd) -> None:
    systemd.up(workers=1, timeout=0)
    client = systemd.client().send("/wait")
    inside = systemd.knock("request")
    systemd.listen_for(0.8)
    assert not systemd.all_records("worker-hung")
    inside.release()
    assert client.answer().pid == inside.pid


def test_a_client_that_says_nothing_does_not_look_like_a_hung_worker(systemd: Systemd) -> None:
    systemd.up(workers=1, timeout=0.5)
    silent = systemd.client()
    (pid,) = systemd.workers()
    systemd.listen_for(1.5)
    assert systemd.get().pid == pid
    assert silent.get().pid == pid
