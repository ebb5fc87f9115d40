"""Deadlines of many connections, cheaply: one bucket a second, looked at only when it is due."""

import heapq
from collections.abc import Iterator
from math import inf
from typing import Protocol


class Timed(Protocol):
    """Something with a deadline (monotonic seconds); `filed` is the bucket that will look at it."""

    deadline: float
    filed: int


class Timers:
    """A deadline that moves later costs nothing: its bucket finds out and files it again."""

    def __init__(self) -> None:
        self._buckets: dict[int, set[Timed]] = {}
        self._seconds: list[int] = []

    def set(self, item: Timed, deadline: float) -> None:
        """Give it a deadline; it stays in its bucket unless the deadline comes before that."""
        item.deadline = deadline
        if not 0 < item.filed <= deadline:
            second = int(deadline) + 1
            if item.filed == 0 or second < item.filed:
                self._file(item, second)

    def _file(self, item: Timed, second: int) -> None:
        if item.filed > 0:
            self._take_out(item)
        item.filed = second
        bucket = self._buckets.get(second)
        if bucket is None:
            self._buckets[second] = {item}
            heapq.heappush(self._seconds, second)
        else:
            bucket.add(item)

    def _take_out(self, item: Timed) -> None:
        if bucket := self._buckets.get(item.filed):  # None while `expired` goes through it
            bucket.discard(item)

    def next(self) -> float:
        """When `expired` has to be asked again (monotonic seconds)."""
        return self._seconds[0] if self._seconds else inf

    def expired(self, now: float) -> Iterator[Timed]:
        """Take out everything past its deadline."""
        while self._seconds and self._seconds[0] <= now:
            second = heapq.heappop(self._seconds)
            for item in self._buckets.pop(second):
                if item.filed != second:
                    continue  # was forgotten while we went through the others
                item.filed = 0
                if item.deadline <= now:
                    yield item
                else:
                    self._file(item, int(item.deadline) + 1)

    def forget(self, item: Timed) -> None:
        """It has no deadline any more, and is not kept for it either."""
        if item.filed > 0:
            self._take_out(item)
        item.deadline = inf
        item.filed = -1
