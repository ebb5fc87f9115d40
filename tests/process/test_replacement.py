"""How soon a killed worker of a large preloaded app has a successor."""

import os
import statistics
import time
from signal import SIGKILL

import pytest

from prefork_sd.pool import YOUNG
from tests.process.systemd import Systemd

HEAVY = """
HELD = [{"number": number, "text": str(number) * 20} for number in range(750_000)]
"""
KILLS = 9


@pytest.mark.parametrize("threads", [1, 4], ids=["sync", "threads"])
def test_a_worker_of_300_mb_is_back_at_once(systemd: Systemd, threads: int) -> None:
    systemd.deploy(more=HEAVY)
    systemd.up(workers=2, threads=threads, preload_app=True)
    for worker in systemd.status()["workers"]:
        assert worker["rss"] > 300_000_000
        assert worker["pss"] < 200_000_000
    for _ in range(2):
        systemd.record("worker-booted")
    systemd.listen_for(YOUNG)  # a death now is no crash loop
    times = []
    for _ in range(KILLS):
        victim = systemd.workers()[-1]
        began = time.monotonic()
        os.kill(victim, SIGKILL)
        systemd.record("worker-booted")
        times.append(time.monotonic() - began)
    assert statistics.median(times) < 0.1, times
