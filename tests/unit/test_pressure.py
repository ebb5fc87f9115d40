"""Memory pressure: what systemd names is watched, what makes no sense is not, and not too often."""

import base64
import os
from pathlib import Path

import pytest

from prefork_sd.pressure import Pressure, give_back, proportional, resident


def test_the_trigger_is_written_to_what_is_named(tmp_path: Path) -> None:
    watched = tmp_path / "memory.pressure"
    watched.touch()
    trigger = base64.b64encode(b"some 200000 2000000\0").decode()
    pressure = Pressure({"MEMORY_PRESSURE_WATCH": str(watched), "MEMORY_PRESSURE_WRITE": trigger})
    assert pressure.fd >= 0
    assert watched.read_bytes() == b"some 200000 2000000\0"
    assert not os.get_inheritable(pressure.fd)
    pressure.close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"MEMORY_PRESSURE_WATCH": "/dev/null"},
        {"MEMORY_PRESSURE_WATCH": "/no/such/file"},
        {"MEMORY_PRESSURE_WATCH": "/dev/zero", "MEMORY_PRESSURE_WRITE": "a"},
    ],
)
def test_nothing_to_watch(environ: dict[str, str]) -> None:
    assert Pressure(environ).fd == -1


def test_what_may_be_watched_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the root of a control group namespace: it can be opened, and not be written to."""
    named, instead = tmp_path / "memory.pressure", tmp_path / "workers.pressure"
    named.touch()
    instead.touch()
    environ = {
        "MEMORY_PRESSURE_WATCH": str(named),
        "MEMORY_PRESSURE_WRITE": base64.b64encode(b"some 1 2\0").decode(),
    }
    write = os.write

    def refuse(fd: int, data: bytes) -> int:
        if os.path.sameopenfile(fd, watched):
            raise PermissionError(1, "Operation not permitted")
        return write(fd, data)

    with named.open() as file:
        watched = file.fileno()
        monkeypatch.setattr(os, "write", refuse)
        assert Pressure(environ).fd == -1
        pressure = Pressure(environ, instead)
    assert pressure.fd >= 0
    assert instead.read_bytes() == b"some 1 2\0"
    pressure.close()


def test_not_too_often() -> None:
    pressure = Pressure({})
    assert pressure.collect_now(100.0)
    assert not pressure.collect_now(109.0)
    assert pressure.collect_now(110.0)
    assert pressure.recycle_now(100.0)
    assert not pressure.recycle_now(159.0)
    assert pressure.recycle_now(160.0)


def test_memory_can_be_given_back_and_looked_at() -> None:
    give_back()
    assert resident(os.getpid()) > 1 << 20
    assert resident(2**22 + 1) == 0


def test_a_share_of_memory_is_not_more_than_all_of_it() -> None:
    share = proportional(os.getpid())
    assert share is not None
    assert 1 << 20 < share <= resident(os.getpid())
    assert proportional(2**22 + 1) is None
