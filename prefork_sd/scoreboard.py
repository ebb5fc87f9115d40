"""Shared memory between the arbiter and its workers: one slot a worker, and its last words.

The scoreboard is a memfd(2) so that it can outlive an exec. A worker writes only into its own
slot; the arbiter only reads, but for handing a slot out. Every cell is naturally aligned and
written by one process, so nothing needs a lock. (A reader on a 32-bit machine could see half of
an 8-byte store; the two cells that decide over life and death are 4 bytes for that reason.)

A slot is `LANES` + 1 records of 256 bytes: the worker's own, then one for each request it may
have in hand at the same time.
"""

import mmap
import os
import struct
from bisect import bisect_left
from dataclasses import dataclass
from operator import add

RECORD = 256
LANES = 256
SLOT = RECORD * (LANES + 1)
SLOTS = 2048
HEADER = 4096
LINE = RECORD - 16  # of a request line that fits into its lane
TICK = 16  # ticks a second: 4 bytes of them last for 8 years of uptime

# 4-byte cells of a worker's record, and the 8-byte ones after them
FLAGS, PROMISE, PID, GENERATION, AGE = range(5)
REQUESTS, ERRORS, SENT = 8, 9, 10
CLASSES, SECONDS, BUCKETS = 11, 16, 17  # five status classes, the sum of durations, a histogram
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds, upper ones
HIGH = 0  # in the header: how many slots were ever in use
_SERVED = struct.Struct(f"3Q5Qd{len(BOUNDS) + 1}Q")  # these cells, from REQUESTS on
TOTALS = BUCKETS + len(BOUNDS) + 1  # where the header's counters by name begin

BOOTED, DRAINING, TIRED, HUNG = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class InHand:
    """A request that a worker has in hand. `since` is monotonic seconds."""

    line: str
    since: float

    @property
    def method(self) -> str:
        return self.line.partition(" ")[0]

    @property
    def path(self) -> str:
        """The request target without its query: what may be put on record."""
        return [*self.line.split(" "), ""][1].partition("?")[0]


@dataclass(frozen=True, slots=True)
class Served:
    """What was served: by one worker, or by all that there ever were."""

    requests: int = 0
    errors: int = 0  # responses with 5xx
    sent: int = 0  # bytes of bodies
    classes: tuple[int, ...] = (0,) * 5  # 1xx to 5xx
    seconds: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)  # not cumulated; the last has no bound

    def __add__(self, other: "Served") -> "Served":
        return Served(
            self.requests + other.requests,
            self.errors + other.errors,
            self.sent + other.sent,
            tuple(map(add, self.classes, other.classes)),
            self.seconds + other.seconds,
            tuple(map(add, self.buckets, other.buckets)),
        )


class Scoreboard:
    """All slots. `fd` is the memfd behind them, close-on-exec."""

    def __init__(self, fd: int = -1) -> None:
        size = HEADER + SLOTS * SLOT
        if fd < 0:
            fd = os.memfd_create("prefork-sd-scoreboard", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
        elif os.fstat(fd).st_size != size:
            raise ValueError("not a scoreboard of this version")
        self.fd = fd
        self.memory = mmap.mmap(fd, size)
        header = memoryview(self.memory)[:HEADER]
        self._long, self._real = header.cast("Q"), header.cast("d")
        self._free = list(range(SLOTS - 1, -1, -1))

    @property
    def gone(self) -> Served:
        """What was served by workers that are gone."""
        return _served(self._long, self._real)

    def bury(self, slot: "Slot") -> None:
        """Keep what a worker has served, now that it is gone."""
        total = self.gone + slot.served
        self._long[REQUESTS], self._long[ERRORS], self._long[SENT] = (
            total.requests,
            total.errors,
            total.sent,
        )
        self._real[SECONDS] = total.seconds
        for at, count in enumerate(total.classes, CLASSES):
            self._long[at] = count
        for at, count in enumerate(total.buckets, BUCKETS):
            self._long[at] = count
        slot.clear()

    def bury_all(self) -> None:
        """After a restart or a crash: everybody in it is gone."""
        for index in range(self._long[HIGH]):  # the others would only cost memory
            slot = Slot(self.memory, index)
            if slot.age:
                self.bury(slot)

    def tick(self, counter: int) -> None:
        """Count an event; `counter` is a small number that means the same in every version."""
        self._long[TOTALS + counter] += 1

    def ticks(self, counter: int) -> int:
        return self._long[TOTALS + counter]

    def close(self) -> None:
        """Let go of the file behind it; a mapping that is in use stays."""
        os.close(self.fd)

    def take(self) -> "Slot":
        """Hand out an empty slot, or raise OverflowError when none is left."""
        if not self._free:
            raise OverflowError(f"no more than {SLOTS} workers at a time")
        slot = Slot(self.memory, self._free.pop())
        slot.clear()
        self._long[HIGH] = max(self._long[HIGH], slot.index + 1)
        return slot

    def claim(self, index: int) -> "Slot":
        """A slot that was handed out before a re-exec, with what its worker wrote."""
        self._free.remove(index)
        return self.slot(index)

    def blind(self) -> "Slot":
        """A slot for a worker that writes to another scoreboard: booted, and never late."""
        slot = self.take()
        slot.raise_flag(BOOTED)
        return slot

    def slot(self, index: int) -> "Slot":
        """A slot that was handed out."""
        return Slot(self.memory, index)

    def give_back(self, slot: "Slot") -> None:
        self._free.append(slot.index)


class Slot:
    """One worker's part of the scoreboard."""

    __slots__ = (
        "_base",
        "_buckets",
        "_classes",
        "_half",
        "_lines",
        "_long",
        "_memory",
        "_published",
        "_real",
        "_requests",
        "_seconds",
        "_sent",
        "index",
    )

    def __init__(self, memory: mmap.mmap, index: int) -> None:
        self.index = index
        self._base = HEADER + index * SLOT
        self._memory = memory
        view = memoryview(memory)[self._base : self._base + SLOT]
        self._half, self._long, self._real = view.cast("I"), view.cast("Q"), view.cast("d")
        self._lines: dict[int, bytes] = {}  # what stands in each lane
        self._requests = self._published = self._sent = 0
        self._seconds = 0.0
        self._classes = [0] * 5
        self._buckets = [0] * (len(BOUNDS) + 1)

    def clear(self) -> None:
        """Forget who had it before. Lanes that were never used stay without memory."""
        self._memory[self._base : self._base + RECORD] = bytes(RECORD)
        for lane in range(LANES):
            if self._real[RECORD * (lane + 1) // 8]:
                self.end(lane)

    def reserve(self, age: int) -> None:
        """Say for which worker it is."""
        self._half[AGE] = age

    # ---- the worker's side

    def introduce(self, pid: int, generation: int) -> None:
        self._half[PID], self._half[GENERATION] = pid, generation

    def promise(self, deadline: float) -> None:
        """Say by when (monotonic seconds) this worker will be heard again; inf: never late."""
        self._half[PROMISE] = min(int(deadline * TICK) + 1, 0xFFFFFFFF) if deadline < 2**28 else 0

    def raise_flag(self, flag: int) -> None:
        self._half[FLAGS] |= flag

    def begin(self, lane: int, line: bytes, now: float) -> None:
        """Note that the request with that first line is in hand."""
        at = RECORD * (lane + 1)
        self._real[at // 8] = now
        if line is self._lines.get(lane):
            return
        self._lines[lane] = line
        length = len(line)
        if length > LINE:
            length = LINE
        self._half[at // 4 + 2] = length
        start = self._base + at + 16
        self._memory[start : start + length] = line[:length]

    def since(self, lane: int) -> "memoryview[float]":
        """The one cell that `begin` writes where the first line is that of the last request."""
        at = RECORD * (lane + 1) // 8
        return self._real[at : at + 1]

    def end(self, lane: int) -> None:
        """Note that nothing is in hand there any more."""
        self._real[RECORD * (lane + 1) // 8] = 0.0

    def observe(self, status: int, seconds: float, sent: int) -> None:
        """Count one response: its status, how long it took, and the bytes of its body."""
        self._requests += 1
        self._sent += sent
        self._seconds += seconds
        self._classes[status // 100 - 1 if status < 600 else 4] += 1
        self._buckets[bisect_left(BOUNDS, seconds) if seconds > BOUNDS[0] else 0] += 1

    def observe_quick(self, classes: list[int], seconds: float, sent: int) -> None:
        """Count many responses, none of which took longer than the first of `BOUNDS`."""
        count = sum(classes)
        self._requests += count
        self._sent += sent
        self._seconds += seconds
        self._classes = list(map(add, self._classes, classes))
        self._buckets[0] += count

    def publish(self) -> None:
        """Let the arbiter see what was counted."""
        if self._published != self._requests:
            self._published = self._requests
            sums = (self._requests, self._classes[4], self._sent, *self._classes, self._seconds)
            _SERVED.pack_into(self._memory, self._base + 8 * REQUESTS, *sums, *self._buckets)

    # ---- the arbiter's side

    @property
    def served(self) -> Served:
        return _served(self._long, self._real)

    @property
    def pid(self) -> int:
        return self._half[PID]

    @property
    def generation(self) -> int:
        return self._half[GENERATION]

    @property
    def age(self) -> int:
        return self._half[AGE]

    @property
    def booted(self) -> bool:
        return bool(self._half[FLAGS] & BOOTED)

    @property
    def draining(self) -> bool:
        return bool(self._half[FLAGS] & DRAINING)

    @property
    def tired(self) -> bool:
        return bool(self._half[FLAGS] & TIRED)

    @property
    def hung(self) -> bool:
        return bool(self._half[FLAGS] & HUNG)

    @property
    def deadline(self) -> float:
        """By when the worker promised to be heard again (monotonic seconds); inf: no promise."""
        ticks = self._half[PROMISE]
        return ticks / TICK if ticks else float("inf")

    @property
    def counters(self) -> tuple[int, int, int]:
        """Requests, responses with 5xx, bytes sent."""
        return self._long[REQUESTS], self._long[ERRORS], self._long[SENT]

    def occupied(self, lane: int) -> bool:
        """Whether a request is in hand there."""
        return self._real[RECORD * (lane + 1) // 8] != 0.0

    def in_hand(self) -> list[InHand]:
        """The requests in hand, the oldest first."""
        found = []
        for lane in range(1, LANES + 1):
            since = self._real[RECORD * lane // 8]
            if since:
                length = min(self._half[RECORD * lane // 4 + 2], LINE)
                start = self._base + RECORD * lane + 16
                line = self._memory[start : start + length].partition(b"\r\n")[0].decode("latin-1")
                found.append(InHand(line, since))
        return sorted(found, key=lambda request: request.since)


def _served(cells: "memoryview[int]", reals: "memoryview[float]") -> Served:
    return Served(
        cells[REQUESTS],
        cells[ERRORS],
        cells[SENT],
        tuple(cells[CLASSES : CLASSES + 5]),
        reals[SECONDS],
        tuple(cells[BUCKETS : BUCKETS + len(BOUNDS) + 1]),
    )


class LastWords:
    """What a worker leaves behind: a memfd that even stuck C code can write a stack to."""

    def __init__(self, fd: int = -1) -> None:
        self.fd = os.memfd_create("prefork-sd-last-words", os.MFD_CLOEXEC) if fd < 0 else fd

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode("utf-8", "backslashreplace"))

    def read(self, most: int = 32768) -> str:
        """The text so far; of a longer one, its end."""
        size = os.fstat(self.fd).st_size
        return os.pread(self.fd, most, max(0, size - most)).decode("utf-8", "replace").strip()

    def close(self) -> None:
        os.close(self.fd)
