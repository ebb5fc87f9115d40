"""Workers that have served their share: a successor is there before one goes, never all at once."""

import re

import pytest

from tests.process.systemd import Systemd

SHAPES = pytest.mark.parametrize("settings", [{}, {"threads": 2}], ids=["sync", "threads"])

GROWS = """
kept = []

def grow(environ):
    kept.append(b"x" * 50_000_000)
    return index(environ)

PAGES["/grow"] = grow
"""


def fewest_ready(systemd: Systemd) -> int:
    """Of all that systemd was told since READY=1."""
    lines = [message.fields["STATUS"] for message in systemd.said("STATUS=serving: ")]
    return min(int(found[1]) for line in lines if (found := re.match(r"serving: (\d+) of", line)))


@SHAPES
def test_old_age(systemd: Systemd, settings: dict[str, int]) -> None:
    systemd.up(workers=3, max_lifetime=1, **settings)
    first = systemd.workers()
    for _ in range(6):  # two generations of them
        systemd.record("worker-exited")
        assert systemd.get().status == 200
    assert fewest_ready(systemd) == 3
    assert not set(first) & set(systemd.workers())
    assert not systemd.all_records(level="warn")


@SHAPES
def test_a_worker_that_has_grown(systemd: Systemd, settings: dict[str, int]) -> None:
    systemd.deploy("1", GROWS)
    systemd.up(workers=1, max_rss="60M", **settings)
    (worker,) = systemd.workers()
    for _ in range(70):
        systemd.get()
    assert systemd.workers() == [worker]
    assert systemd.get("/grow").pid == worker
    for _ in range(70):  # it looks at itself now and then
        assert systemd.get().status == 200
    systemd.record("worker-exited", PREFORK_SD_WORKER_PID=worker)
    assert fewest_ready(systemd) == 1
    assert systemd.get().pid != worker


def test_all_that_are_tired_at_once_go_one_after_the_other(systemd: Systemd) -> None:
    systemd.deploy("1", 'knock("boot")')
    systemd.start(workers=4, max_requests=1, surge=1)
    for _ in range(4):
        systemd.knock("boot").release()
    systemd.expect("READY=1")
    first = systemd.workers()
    asked = [systemd.client() for _ in range(40)]
    tired: set[int] = set()
    while len(tired) < 4:
        tired.add(asked.pop().get().pid)
    successor = systemd.knock("boot")
    systemd.settle()
    assert systemd.workers() == first  # nobody has left, and one boots
    assert len(systemd.workers("booting")) == 1
    successor.release()
    for _ in range(3):
        systemd.knock("boot").release()
        systemd.record("worker-exited")
    systemd.record("worker-exited")
    assert fewest_ready(systemd) == 4
