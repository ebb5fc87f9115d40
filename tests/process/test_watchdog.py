"""The heartbeat that systemd waits for, and the silence of a service that has nothing to do."""

import os
import time
from itertools import pairwise
from signal import SIGKILL

from tests.process import proc
from tests.process.systemd import Systemd

LATE = 0.1  # seconds that a busy machine may take to wake somebody


def gaps(systemd: Systemd) -> list[float]:
    """Seconds between one WATCHDOG=1 and the next, the last until now."""
    times = [message.at for message in systemd.said("WATCHDOG=1")]
    return [later - earlier for earlier, later in pairwise([*times, time.monotonic()])]


def test_the_watchdog_is_fed_twice_a_period_from_ready_on(systemd: Systemd) -> None:
    systemd.start(watchdog=0.8, workers=1)
    ready = systemd.expect("READY=1")
    first = systemd.expect("WATCHDOG=1")
    assert first.at - ready.at < LATE
    for _ in range(4):
        systemd.expect("WATCHDOG=1")
    assert max(gaps(systemd)) <= 0.4 + LATE
    systemd.record("ready")
    assert all(message.at >= ready.at for message in systemd.said("WATCHDOG=1"))


def test_the_watchdog_is_fed_while_a_reload_hangs(systemd: Systemd) -> None:
    systemd.start(watchdog=0.8, workers=1)
    systemd.expect("READY=1")
    systemd.deploy("2", 'knock("import")')
    systemd.hup()
    canary = systemd.knock("import")
    for _ in range(4):
        systemd.expect("WATCHDOG=1")
    canary.release()
    systemd.record("reload-done")
    assert max(gaps(systemd)) <= 0.4 + LATE


def test_a_service_that_cannot_serve_lets_the_watchdog_bite(systemd: Systemd) -> None:
    systemd.start(watchdog=0.8, workers=2)
    systemd.expect("READY=1")
    systemd.write("app.py", "import no_such_module\n")
    for pid in systemd.workers():
        os.kill(pid, SIGKILL)
    systemd.wait(lambda: max(gaps(systemd)) > 0.8, "silence for a period")


def test_no_watchdog_is_fed_that_nobody_set(systemd: Systemd) -> None:
    systemd.up(workers=1)
    assert systemd.reload().status == 0
    assert not systemd.said("WATCHDOG=1")


def test_an_idle_service_sleeps(systemd: Systemd) -> None:
    systemd.up(workers=3)
    assert systemd.get().status == 200
    pids = [systemd.pid, *systemd.workers()]
    systemd.listen_for(0.2)  # what the questions above have set going
    before = [proc.wakeups(pid) for pid in pids]
    systemd.listen_for(2.0)
    assert [proc.wakeups(pid) for pid in pids] == before
