"""When a worker has served its share: requests, age and memory."""

import os
import random
from math import inf

from prefork_sd.config import Config

EVERY = 64  # requests between two looks at the memory
PAGE = os.sysconf("SC_PAGESIZE")


class Wear:
    """The bounds of one worker's life, each a little different, so that not all go at once."""

    def __init__(self, cfg: Config, now: float) -> None:
        self._requests = inf
        if cfg.max_requests:
            self._requests = cfg.max_requests + random.randint(0, cfg.max_requests_jitter)
        self._rss = cfg.max_rss or inf
        self._look = EVERY  # requests after which the memory is looked at again
        age = cfg.max_lifetime * random.uniform(0.9, 1.1)
        self.until = now + age if cfg.max_lifetime else inf  # monotonic seconds

    @property
    def none(self) -> bool:
        """Whether requests never wear it out."""
        return self._requests == self._rss == inf

    def worn(self, requests: int) -> bool:
        """Whether that many requests are enough (said once), or have made it too large."""
        if requests >= self._requests:
            self._requests = inf
            return True
        if self._rss == inf or requests < self._look:
            return False
        self._look = requests + EVERY
        return rss() > self._rss


def rss() -> int:
    """This process's resident memory, in bytes: proc_pid_statm(5)."""
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 (the fast way)
        return int(statm.read().split()[1]) * PAGE
