"""Processes that the app forks: they are no workers, and leave the worker's state alone."""

from tests.process.systemd import Systemd

FORKS = """
import multiprocessing, signal, sys

def forks(environ):
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    child.terminate()
    child.join(5)
    return f"{child.exitcode} {os.getpid()}".encode()

PAGES["/forks"] = forks
"""


def test_a_child_of_the_app_dies_of_a_signal_and_its_worker_serves_on(systemd: Systemd) -> None:
    systemd.deploy("1", FORKS)
    systemd.up(workers=1)
    status, pid = systemd.get("/forks").text.split()
    assert status == "-15"
    systemd.settle()
    assert systemd.workers() == [int(pid)]
    assert systemd.status()["ready"] == 1
