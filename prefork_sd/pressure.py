"""Memory pressure: the kernel's stall events for our control group, as systemd hands them on."""

import base64
import binascii
import ctypes
import gc
import os
from collections.abc import Mapping
from contextlib import suppress
from math import inf

COLLECT_EVERY = 10.0  # seconds between two rounds of collecting
RECYCLE_EVERY = 60.0  # seconds between two workers that are replaced for it


class Pressure:
    """What $MEMORY_PRESSURE_WATCH names (systemd.exec(5)). `fd`: to poll for POLLPRI, or -1."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.fd = -1
        self._collected = self._recycled = -inf
        path = environ.get("MEMORY_PRESSURE_WATCH", "")
        if not path or path == os.devnull:
            return
        with suppress(OSError, binascii.Error):
            trigger = base64.b64decode(environ.get("MEMORY_PRESSURE_WRITE", ""))
            self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(self.fd, trigger)
            except OSError:
                self.close()

    def collect_now(self, now: float) -> bool:
        """Whether the workers should collect; asked at an event."""
        due = now - self._collected >= COLLECT_EVERY
        if due:
            self._collected = now
        return due

    def recycle_now(self, now: float) -> bool:
        """Whether the largest worker should be replaced; asked at an event."""
        due = now - self._recycled >= RECYCLE_EVERY
        if due:
            self._recycled = now
        return due

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def give_back() -> None:
    """Collect garbage and return what is free to the kernel: malloc_trim(3), where there is one."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident(pid: int) -> int:
    """A process's resident memory in bytes: proc_pid_statm(5); 0 if it is gone or hidden."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:  # noqa: PTH123
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError, ValueError):
        return 0


def proportional(pid: int) -> int | None:
    """Its share of memory in bytes, where what several processes share counts in parts.

    The Pss of proc_pid_smaps_rollup(5), which takes the kernel some 20 ms a GiB; None if it is
    gone or hidden.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:  # noqa: PTH123
            found = next(line for line in rollup if line.startswith(b"Pss:"))
    except (OSError, StopIteration):
        return None
    return int(found.split()[1]) * 1024
