"""Memory pressure: the kernel's stall events for our control group, as systemd hands them on."""

import base64
import binascii
import ctypes
import gc
import os
import select
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from math import inf
from pathlib import Path

COLLECT_EVERY = 10.0  # seconds between two rounds of collecting
RECYCLE_EVERY = 60.0  # seconds between two workers that are replaced for it


class Pressure:
    """What $MEMORY_PRESSURE_WATCH names (systemd.exec(5), systemd.io/MEMORY_PRESSURE).

    `fd`: to poll for `events`, or -1. It is a file of the kernel, or a FIFO or a stream socket of
    whoever watches for us, in which each byte is an event. `instead`: a file of the kernel to
    watch where that one is not permitted, as in a control group namespace.
    """

    def __init__(self, environ: Mapping[str, str], instead: Path | None = None) -> None:
        self.fd = -1
        self.events = select.POLLPRI
        self._collected = self._recycled = -inf
        path = environ.get("MEMORY_PRESSURE_WATCH", "")
        if not path or path == os.devnull:
            return
        with suppress(OSError, binascii.Error):
            trigger = base64.b64decode(environ.get("MEMORY_PRESSURE_WRITE", ""))
            mode = os.stat(path).st_mode  # noqa: PTH116
            self.fd = _connected(path) if stat.S_ISSOCK(mode) else _opened(path)
            if not stat.S_ISREG(mode):
                self.events = select.POLLIN
            if trigger and not stat.S_ISFIFO(mode):  # we would read it ourselves
                self._arm(trigger, instead)

    def _arm(self, trigger: bytes, instead: Path | None) -> None:
        """Say what counts as an event. Raises OSError, and nothing is watched then."""
        try:
            os.write(self.fd, trigger)
        except OSError as error:
            self.close()
            if not (isinstance(error, PermissionError) and instead):
                raise
            self.fd = _opened(str(instead))
            self._arm(trigger, None)

    def take(self, events: int) -> None:
        """What poll(2) found is dealt with; a source that is gone is watched no more."""
        if self.events == select.POLLIN:
            with suppress(BlockingIOError):
                while os.read(self.fd, 4096):
                    pass
                self.close()
        elif events & select.POLLERR:
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


def _opened(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _connected(path: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(path)
        return sock.detach()


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
