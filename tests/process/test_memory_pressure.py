"""Memory that is short, as whoever watches for us says: systemd.io/MEMORY_PRESSURE."""

import os
import socket
from pathlib import Path

import pytest

from tests.process import proc
from tests.process.systemd import Systemd

GROWS = """
kept = []

def grow(environ):
    kept.append(b"x" * 30_000_000)
    return index(environ)

PAGES["/grow"] = grow
"""

TRASH = """
import gc
gc.disable()

class Knot:
    pass

def tangle(environ):
    for _ in range(1000):
        knot = Knot()
        knot.itself = knot
    return count(environ)

def count(environ):
    return str(sum(type(one) is Knot for one in gc.get_objects())).encode()

PAGES.update({"/tangle": tangle, "/count": count})
"""


@pytest.fixture
def fifo(systemd: Systemd) -> Path:
    path = systemd.folder / "pressure"
    os.mkfifo(path)
    systemd.environ["MEMORY_PRESSURE_WATCH"] = str(path)
    return path


def press(path: Path) -> None:
    """Say once that memory is short."""
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"!")
    os.close(fd)


def test_the_largest_worker_is_replaced(systemd: Systemd, fifo: Path) -> None:
    systemd.deploy("1", GROWS)
    systemd.up(workers=2)
    large = systemd.get("/grow").pid
    press(fifo)
    record = systemd.record("memory-pressure")
    assert f"worker {large} (" in record["message"]
    systemd.record("worker-exited", PREFORK_SD_WORKER_PID=large)
    assert large not in systemd.workers()
    assert systemd.status()["ready"] == 2


def test_the_workers_collect_garbage(systemd: Systemd, fifo: Path) -> None:
    systemd.deploy("1", TRASH)
    systemd.up(workers=1)
    client = systemd.client()
    assert client.get("/tangle").text == "1000"
    press(fifo)
    systemd.record("memory-pressure")
    assert client.get("/count").text == "0"


def test_it_is_one_record_however_often_it_is_said(systemd: Systemd, fifo: Path) -> None:
    systemd.up(workers=1)
    for _ in range(3):
        press(fifo)
        systemd.settle()
    assert len(systemd.all_records("memory-pressure")) == 1


def test_a_watcher_that_listens_on_a_socket(systemd: Systemd) -> None:
    path = systemd.folder / "watcher"
    with socket.socket(socket.AF_UNIX) as watcher:
        watcher.bind(str(path))
        watcher.listen()
        systemd.environ["MEMORY_PRESSURE_WATCH"] = str(path)
        systemd.up(workers=1)
        told, _ = watcher.accept()
        told.send(b"!")
        systemd.record("memory-pressure")
        systemd.record("worker-exited")  # the largest, whose successor is there
        told.close()  # it is gone, and the service does not look for it all the time
        systemd.settle()
        systemd.listen_for(0.2)  # what the question has set going
        before = proc.wakeups(systemd.pid)
        systemd.listen_for(0.5)
        assert proc.wakeups(systemd.pid) == before
