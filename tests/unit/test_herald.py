"""What systemd hears, as datagrams on a real notify socket."""

import errno
import os
import socket
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from prefork_sd.herald import HEALTHY, Herald

NOW = 100.0


class Systemd:
    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(str(path))
        self.environ = {"NOTIFY_SOCKET": str(path)}

    def heard(self) -> list[str]:
        """Each message on one line."""
        messages = []
        while True:
            try:
                messages.append(self.sock.recv(8192).decode().replace("\n", " "))
            except BlockingIOError:
                return messages


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path / "notify")
    yield systemd
    systemd.sock.close()


def test_a_status_is_told_when_it_changes(systemd: Systemd) -> None:
    herald = Herald(systemd.environ, os.getpid())
    for text in ("a", "a", "b", "a"):
        herald.status(text)
    assert systemd.heard() == ["STATUS=a", "STATUS=b", "STATUS=a"]


def test_a_reload_from_its_begin_to_its_end(systemd: Systemd) -> None:
    herald = Herald(systemd.environ, os.getpid())
    herald.say_ready("up", NOW)
    herald.reloading("reloading", 123.5)
    herald.reloaded("done", NOW, failed=False)
    herald.status("done")
    assert systemd.heard() == [
        "READY=1 STATUS=up",
        "RELOADING=1 MONOTONIC_USEC=123500000 STATUS=reloading",
        "ERRNO=0",
        "READY=1 STATUS=done",
    ]


def test_a_reload_that_failed_is_ready_too(systemd: Systemd) -> None:
    herald = Herald(systemd.environ, os.getpid())
    herald.say_ready("up", NOW)
    herald.reloading("reloading", NOW)
    systemd.heard()
    herald.reloaded("the last reload failed", NOW, failed=True)
    assert systemd.heard() == [f"ERRNO={errno.EINVAL}", "READY=1 STATUS=the last reload failed"]


def test_a_reload_before_the_first_ready_does_not_say_it(systemd: Systemd) -> None:
    herald = Herald(systemd.environ, os.getpid())
    herald.reloading("reloading", NOW)
    herald.reloaded("failed", NOW, failed=True)
    assert not [text for text in systemd.heard() if "READY" in text or "RELOADING" in text]


def test_stopping_is_said_once_and_nothing_is_ready_after_it(systemd: Systemd) -> None:
    herald = Herald(systemd.environ, os.getpid())
    herald.say_ready("up", NOW)
    herald.stop("stopping")
    herald.stop("stopping")
    herald.say_ready("up", NOW)
    assert systemd.heard() == ["READY=1 STATUS=up", "STOPPING=1 STATUS=stopping"]


def test_more_time_is_asked_for_at_most_once_a_second_and_anew_in_each_phase(
    systemd: Systemd,
) -> None:
    herald = Herald(systemd.environ, os.getpid())
    for now in (NOW, NOW + 0.5, NOW + 1.0):
        herald.extend(90, now)
    assert systemd.heard() == ["EXTEND_TIMEOUT_USEC=90000000"] * 2
    herald.stop("stopping")
    herald.extend(30, NOW + 1.1)
    assert systemd.heard()[-1] == "EXTEND_TIMEOUT_USEC=30000000"


def test_the_watchdog_is_fed_twice_a_period_from_ready_on(systemd: Systemd) -> None:
    herald = Herald(systemd.environ | {"WATCHDOG_USEC": "3000000"}, os.getpid())
    herald.ping(NOW)
    assert (systemd.heard(), herald.next_ping) == ([], inf)
    herald.say_ready("up", NOW)
    assert systemd.heard() == ["READY=1 STATUS=up", "WATCHDOG=1"]
    assert herald.next_ping == NOW + 1.5


def test_without_a_watchdog_nobody_is_fed(systemd: Systemd) -> None:
    herald = Herald(systemd.environ, os.getpid())
    herald.say_ready("up", NOW)
    assert herald.next_ping == inf
    assert "WATCHDOG=1" not in systemd.heard()


def test_a_minute_of_health_is_told_once(systemd: Systemd) -> None:
    herald = Herald(systemd.environ, os.getpid())
    herald.say_ready("up", NOW)
    herald.say_ready("reloaded", NOW + 30)
    assert herald.next_reset == NOW + HEALTHY
    herald.prosper(NOW + HEALTHY - 1, well=True)
    assert "RESTART_RESET=1" not in systemd.heard()
    herald.prosper(NOW + HEALTHY, well=True)
    assert systemd.heard() == ["RESTART_RESET=1"]
    herald.say_ready("reloaded", NOW + 300)
    herald.prosper(NOW + 400, well=True)
    assert "RESTART_RESET=1" not in systemd.heard()
    assert herald.next_reset == inf  # nobody has to wake up for it any more


def test_a_service_that_is_not_well_after_a_minute_gets_another_one(systemd: Systemd) -> None:
    herald = Herald(systemd.environ, os.getpid())
    herald.say_ready("up", NOW)
    herald.prosper(NOW + HEALTHY, well=False)
    assert "RESTART_RESET=1" not in systemd.heard()
    assert herald.next_reset == NOW + 2 * HEALTHY
    herald.prosper(NOW + 2 * HEALTHY, well=True)
    assert systemd.heard() == ["RESTART_RESET=1"]


@pytest.mark.parametrize(("told", "keeps"), [("16", True), ("0", False), ("", False)])
def test_whether_there_is_a_store(systemd: Systemd, told: str, keeps: bool) -> None:
    assert Herald({"FDSTORE": told} if told else {}, os.getpid()).keeps is keeps


def test_why_the_service_ends_stays_in_its_status(systemd: Systemd) -> None:
    Herald(systemd.environ, os.getpid()).failed("no\nsuch app")
    assert systemd.heard() == ["STATUS=no such app ERRNO=22"]


def test_without_systemd_nothing_is_said_and_nothing_fails() -> None:
    herald = Herald({}, os.getpid())
    herald.say_ready("up", NOW)
    assert herald.next_reset == inf
    herald.stop("down")
    assert herald.ready
