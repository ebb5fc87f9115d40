"""refork_after: workers are forked anew from one that has warmed up, and share what it cached."""

import os
import socket
from http.client import HTTPException
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from tests.process import proc
from tests.process.pythons import supported
from tests.process.systemd import Systemd
from tests.process.test_asgi import deploy as deploy_asgi
from tests.process.test_load import Load

CACHE = """
FILLED_BY = []

def cache(environ):
    if not FILLED_BY:
        FILLED_BY.append(os.getpid())
    return f"{FILLED_BY[0]} {os.getpid()}".encode()

PAGES["/cache"] = cache
with open("imported", "a") as file:
    file.write(f"{os.getpid()}\\n")
"""
LARGE = 60_000_000  # bytes
HEAP = f"""
DATA = []

def heap(environ):
    if not DATA:
        DATA.append(os.urandom({LARGE}))
    return b"filled"

PAGES["/cache"] = heap
"""
THREAD = """
import threading

def start(environ):
    threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
    return b"started"

PAGES["/thread"] = start
"""


def settings(**more: Any) -> dict[str, Any]:
    return {"workers": 2, "preload_app": True, "refork_after": 10, **more}


def molds(systemd: Systemd) -> list[int]:
    return [pid for pid in systemd.processes() if "mold" in proc.title(pid)]


def warm(systemd: Systemd) -> int:
    """Ask until the workers are children of one of them; return who that was."""
    said = "its workers are forked anew, from what worker "
    cold = set(systemd.workers())
    before = len(systemd.all_records(text=said))
    for _ in range(5000):
        systemd.get("/cache")
        if len(systemd.all_records(text=said)) > before:
            break
    origin = int(systemd.record(text=said)["message"].split()[-3])
    systemd.wait(lambda: not cold & set(systemd.workers()), "the successors of all")
    return origin


def kill_one(systemd: Systemd) -> int:
    """Kill a worker, and wait for the one that takes its place."""
    victim, *others = systemd.workers()
    os.kill(victim, SIGKILL)
    systemd.record("worker-killed", PREFORK_SD_WORKER_PID=victim)
    systemd.wait(lambda: len(systemd.workers()) > len(others), "its successor")
    return victim


def test_the_workers_share_what_one_has_cached(systemd: Systemd) -> None:
    systemd.deploy(more=CACHE)
    systemd.up(**settings())
    before = systemd.workers()
    (cold,) = molds(systemd)
    origin = warm(systemd)
    assert origin in before
    for pid in before:
        systemd.record("worker-exited", PREFORK_SD_WORKER_PID=pid, PREFORK_SD_EXIT_STATUS=0)
    systemd.gone(cold)
    assert not set(before) & set(systemd.workers())
    told = [systemd.get("/cache").text.split() for _ in range(10)]
    assert {filled_by for filled_by, _ in told} == {str(origin)}
    assert {int(pid) for _, pid in told} <= set(systemd.workers())
    assert len((systemd.site / "imported").read_text().split()) == 1
    assert not systemd.all_records(level="error")


def test_it_is_in_memory_once(systemd: Systemd) -> None:
    systemd.deploy(more=HEAP)
    systemd.up(**settings(workers=4))
    warm(systemd)
    for _ in range(40):
        assert systemd.get("/cache").text == "filled"
    everybody = [*systemd.workers(), *molds(systemd)]
    assert len(everybody) >= 5
    assert LARGE <= sum(map(share_of_memory, everybody)) < 2 * LARGE


def share_of_memory(pid: int) -> int:
    """Bytes, those that are shared divided by who shares them: proc_pid_smaps_rollup(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def test_nobody_waits_or_is_lost_meanwhile(systemd: Systemd) -> None:
    systemd.deploy(more=CACHE)
    systemd.up(**settings(workers=3, refork_after=30))
    load = Load(systemd)
    for _ in range(5000):
        load.ask()
        if len(systemd.all_records("worker-exited")) == 3:
            break
    assert len(systemd.all_records("worker-booted")) == 6
    assert not systemd.all_records(level="error")
    assert not systemd.all_records(level="warn")


def test_the_new_mold_has_no_copy_of_a_connection(systemd: Systemd) -> None:
    systemd.deploy(more=CACHE)
    systemd.up(**settings(workers=1))
    kept = systemd.client()
    origin = kept.get().pid
    assert warm(systemd) == origin
    systemd.record("worker-exited", PREFORK_SD_WORKER_PID=origin)
    mold = molds(systemd)[-1]
    sockets = [place for place in proc.files(mold).values() if place.startswith("socket:")]
    listener = proc.inode(systemd.listeners[0][1].fileno())
    assert listener in sockets
    assert len(set(sockets)) == 2  # and the channel to the arbiter
    with pytest.raises((OSError, HTTPException)):
        kept.get()


def test_the_new_mold_keeps_no_file_of_a_request(systemd: Systemd) -> None:
    """An unlinked file would take its room on the disk as long as anybody has it open."""
    systemd.deploy(more=CACHE)
    systemd.up(**settings(workers=1, body_buffer=0))
    with socket.create_connection(systemd.listeners[0][1].getsockname()) as sender:
        sender.sendall(b"POST /cache HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        (worker,) = systemd.workers()
        systemd.wait(lambda: nameless(worker), "the file of a body")
        warm(systemd)
        assert not nameless(molds(systemd)[-1])


def nameless(pid: int) -> list[str]:
    """The files of that process that have no name and are on a disk."""
    places = proc.files(pid).values()
    return [one for one in places if one.endswith(" (deleted)") and not one.startswith("/memfd:")]


def test_the_new_mold_replaces_workers(systemd: Systemd) -> None:
    systemd.deploy(more=CACHE)
    systemd.up(**settings())
    origin = warm(systemd)
    systemd.write("app.py", "import no_such_module\n")
    kill_one(systemd)
    assert {systemd.get("/cache").text.split()[0] for _ in range(6)} == {str(origin)}


def test_a_reload_begins_cold_and_warms_up_again(systemd: Systemd) -> None:
    systemd.deploy(more=CACHE)
    systemd.up(**settings())
    first = warm(systemd)
    systemd.deploy("2", CACHE)
    assert systemd.reload().status == 0
    assert systemd.get().version == "2"
    second = warm(systemd)
    assert second != first
    assert len((systemd.site / "imported").read_text().split()) == 2


def test_when_the_heir_dies_another_takes_its_place(systemd: Systemd) -> None:
    systemd.deploy(more=CACHE)
    systemd.up(**settings(workers=1))
    heir = kill_one(systemd)
    assert warm(systemd) != heir


def test_a_new_mold_that_dies_is_made_anew_and_warms_up(systemd: Systemd) -> None:
    systemd.deploy(more=CACHE)
    systemd.up(**settings(workers=1))
    origin = warm(systemd)
    systemd.record("worker-exited", PREFORK_SD_WORKER_PID=origin)
    (mold,) = molds(systemd)
    os.kill(mold, SIGKILL)
    systemd.record(text="the mold of generation 1 was killed by SIGKILL")
    kill_one(systemd)
    assert len((systemd.site / "imported").read_text().split()) == 2
    assert warm(systemd) != origin


def test_a_worker_with_threads_refuses_with_one_warning(systemd: Systemd) -> None:
    systemd.deploy(more=THREAD)
    systemd.up(**settings(workers=1))
    assert systemd.get("/thread").text == "started"
    assert len({systemd.get().pid for _ in range(30)}) == 1
    message = systemd.record("config-warning")["message"]
    assert message.startswith("refork_after has no effect: worker ")
    assert message.endswith(" has threads (poller)")
    kill_one(systemd)
    assert {systemd.get("/thread").status for _ in range(30)} == {200}
    assert len(systemd.all_records("config-warning")) == 1


def test_an_asgi_app_is_told_that_it_has_no_effect(systemd: Systemd) -> None:
    deploy_asgi(systemd)
    systemd.up(**settings())
    message = systemd.record("config-warning")["message"]
    assert message.startswith("refork_after has no effect: the app is served by AsgiWorker")


@pytest.mark.parametrize("python", supported()[:1], ids=str)
def test_in_a_virtual_environment(systemd: Systemd, python: Any) -> None:
    systemd.deploy(more=CACHE)
    python.make(systemd.site / "venv")
    systemd.up(**settings(venv="venv", env={"PYTHONPATH": ""}))
    origin = warm(systemd)
    assert {systemd.get("/cache").text.split()[0] for _ in range(6)} == {str(origin)}
    assert proc.title(molds(systemd)[-1]) == "prefork-sd: mold [shop]"


def test_all_leave_when_the_arbiter_is_killed(systemd: Systemd) -> None:
    systemd.deploy(more=CACHE)
    systemd.up(**settings())
    warm(systemd)
    systemd.kill(SIGKILL)
    assert systemd.ended() == -SIGKILL
    systemd.wait_for_processes()
    assert Path(systemd.site / "imported").exists()
