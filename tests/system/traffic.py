"""The host's side of load.py: runs it in a machine and judges what it recorded."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.machine import COMMAND_TIMEOUT, Machine

SCRIPT = Path(__file__).with_name("load.py")
INSIDE = "/usr/local/lib/load.py"


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the load; times are seconds of the monotonic clock.

    `failure` is empty, or: refused, reset, cut, stale (an idle connection was closed as it was
    used), timeout, status NNN. `previous` is the last answer on the same connection, if any.
    """

    began: float
    ended: float
    failure: str
    previous: str
    body: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Traffic:
    """Requests of many clients at once, until `end` or until the count is reached."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.requests: list[Request] = []

    def end(self, timeout: float = COMMAND_TIMEOUT) -> list[Request]:
        """All requests, in the order of their ends; those in hand are finished first."""
        if not self.requests:
            out, err = self._process.communicate("", timeout)
            if self._process.returncode:
                raise AssertionError(f"the load failed:\n{err}")
            self.requests = [Request(*record) for record in json.loads(out)]
        return self.requests

    @property
    def failures(self) -> list[Request]:
        return [request for request in self.requests if request.failure]


@contextmanager
def traffic(machine: Machine, **orders: Any) -> Iterator[Traffic]:
    """Load on a server in the machine; `orders` as load.py takes them. It runs on entry."""
    machine.copy(SCRIPT, INSIDE)
    pipe = subprocess.PIPE
    command = f"exec python3 {INSIDE} {shlex.quote(json.dumps(orders))}"
    with machine.start(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "running\n"
            yield Traffic(process)
        finally:
            process.kill()


def percentile(requests: list[Request], percent: float) -> float:
    """The time in seconds within which so many percent of these requests ended."""
    times = sorted(request.seconds for request in requests)
    return times[min(int(len(times) * percent / 100), len(times) - 1)]
