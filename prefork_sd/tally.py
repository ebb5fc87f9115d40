"""What the workers have served, those that are gone included, and how fast."""

from collections.abc import Iterable
from math import inf

Counters = tuple[int, int, int]  # requests, responses with 5xx, bytes sent


class Tally:
    """Sums and rates. The clock is monotonic seconds, always passed in."""

    def __init__(self) -> None:
        self._gone: Counters = (0, 0, 0)
        self._last: Counters = (0, 0, 0)
        self._looked = -inf
        self.rate = 0.0  # requests a second between the last two looks
        self.errors = 0  # responses with 5xx between them

    def bury(self, counters: Counters) -> None:
        """A worker is gone, and what it has served stays."""
        self._gone = _sum([self._gone, counters])

    def total(self, living: Iterable[Counters]) -> Counters:
        return _sum([self._gone, *living])

    def look(self, total: Counters, now: float) -> None:
        """Take the rate since the last look."""
        if self._looked > -inf and now > self._looked:
            self.rate = (total[0] - self._last[0]) / (now - self._looked)
            self.errors = total[1] - self._last[1]
        self._last, self._looked = total, now


def _sum(many: Iterable[Counters]) -> Counters:
    requests, errors, sent = (sum(column) for column in zip(*many, strict=True))
    return requests, errors, sent
