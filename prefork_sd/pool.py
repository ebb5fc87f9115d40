"""Which workers exist and what should happen to them. No fork, no kill, no clock in here.

The arbiter tells the pool what it saw (`add`, `observe`, `remove`) and what is wanted (`want`,
`begin`, `abandon`); `plan` and `late` answer with `Spawn` and `Kill` records, and the arbiter
carries them out. Times are seconds of one monotonic clock, always passed in.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from math import inf
from signal import SIGABRT, SIGKILL, SIGQUIT, SIGTERM, Signals
from typing import Any

YOUNG = 1.0  # seconds READY before a death no longer looks like a crash loop
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds between attempts of a crash loop
ABORT_GRACE = 1.0  # seconds from ABRT (evidence) to KILL
STOPPED_GRACE = 5.0  # seconds that a worker may be stopped by a debugger or an administrator


class State(Enum):
    """What a worker is, seen from the arbiter."""

    BOOTING = "booting"
    READY = "ready"
    RETIRING = "retiring"  # told to drain, never told twice
    ABORTED = "aborted"  # past a deadline: ABRT was sent, KILL follows


ALIVE = (State.BOOTING, State.READY)


@dataclass(slots=True)
class Child:
    """One worker process."""

    pid: int
    age: int
    generation: int
    born: float
    state: State = State.BOOTING
    ready_at: float = inf
    deadline: float = inf  # of the state we put it into: boot, drain or abort
    promise: float = inf  # by when it said that it would be heard again
    accepting: bool = True
    tired: bool = False  # has served its share and asks for a successor
    unwanted: bool = False  # its death is our doing and says nothing about its code
    stopped: bool = False  # by SIGSTOP or the like
    patience: float = inf  # until when it may stay so
    hurried: bool = False  # was told to leave without draining

    def due(self) -> float:
        """When it has to be dealt with if nothing is heard of it."""
        promised = self.state in (State.READY, State.RETIRING)
        deadline = min(self.deadline, self.promise) if promised else self.deadline
        return min(deadline, self.patience) if self.state is not State.ABORTED else deadline


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork one worker of that generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Send that signal to that worker, for that reason."""

    pid: int
    signal: Signals
    reason: str


@dataclass(slots=True)
class Throttle:
    """How one generation's crash loop is slowed down."""

    failures: int = 0
    last: float = -inf

    def failed(self, now: float) -> None:
        self.failures, self.last = self.failures + 1, now

    def not_before(self) -> float:
        """The next attempt: the first comes at once, then with a delay that doubles."""
        if self.failures < 2:
            return -inf
        return self.last + min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self.failures - 2, 16))


@dataclass(slots=True)
class Pool:
    """The workers we have, and the ones we want.

    `target` is the newest generation wanted, `serving` the newest one that has proved itself with
    a READY worker. While they differ, one canary of `target` boots and nothing else changes.
    """

    want: int = 1
    surge: int = 1  # workers allowed beyond `want` while some are being replaced
    graceful_timeout: float = 30.0
    serving: int = 1
    target: int = 1
    newest: int = 1
    ever_ready: bool = False
    quick: bool = False  # those that go have no time to drain
    children: dict[int, Child] = field(default_factory=dict)
    throttles: dict[int, Throttle] = field(default_factory=dict)

    # ---- what the arbiter saw

    def add(self, pid: int, age: int, generation: int, now: float, boot_timeout: float) -> Child:
        """A worker was forked, and may take that many seconds to boot."""
        child = Child(pid, age, generation, now, deadline=now + boot_timeout)
        self.children[pid] = child
        return child

    def rename(self, pid: int, known: int) -> Child:
        """A worker that was ordered from a mold, under a negative number, has its pid now."""
        child = self.children[known] = self.children.pop(pid)
        child.pid = known
        return child

    def observe(
        self,
        pid: int,
        now: float,
        *,
        booted: bool,
        promise: float = inf,
        accepting: bool = True,
        tired: bool = False,
    ) -> bool:
        """Take note of what a worker says of itself; True if it has just become READY."""
        child = self.children[pid]
        child.promise, child.accepting, child.tired = promise, accepting, tired
        became_ready = booted and child.state is State.BOOTING
        if became_ready:
            child.state, child.ready_at, child.deadline = State.READY, now, inf
            self.ever_ready = True
            if child.generation == self.target:
                self.serving = self.target
        if child.state is State.READY and not accepting:  # it drains without being told
            self._retire(child, now + self.graceful_timeout)
        return became_ready

    def stopped(self, pid: int, now: float) -> None:
        """A worker was stopped; if nobody continues it, it has to go."""
        if child := self.children.get(pid):
            child.stopped, child.patience = True, now + STOPPED_GRACE

    def continued(self, pid: int) -> None:
        """A stopped worker runs again."""
        if child := self.children.get(pid):
            child.stopped, child.patience = False, inf

    def remove(self, pid: int, now: float) -> Child | None:
        """A worker is gone; None if it was never ours."""
        child = self.children.pop(pid, None)
        if child is None or child.unwanted:
            return child
        never = child.ready_at == inf
        if never or (now - child.ready_at < YOUNG and not self._healthy(child.generation, now)):
            self.throttles.setdefault(child.generation, Throttle()).failed(now)
        return child

    def fork_failed(self, spawn: Spawn, now: float) -> None:
        """A `Spawn` could not be carried out. The next attempt waits: no death will wake us."""
        throttle = self.throttles.setdefault(spawn.generation, Throttle())
        throttle.failures = max(throttle.failures, 1)
        throttle.failed(now)

    def _healthy(self, generation: int, now: float) -> bool:
        """Whether others of that generation have lived long enough to vouch for its code."""
        return any(
            child.generation == generation and child.ready_at + YOUNG <= now
            for child in self.children.values()
        )

    # ---- what outlives a re-exec

    def memory(self) -> dict[str, Any]:
        """What another image of this process has to know to go on, as values that JSON has."""
        living = [asdict(child) for child in self.children.values() if child.pid > 0]
        children = [each | {"state": each["state"].value} for each in living]
        return {"serving": self.serving, "newest": self.newest, "children": children}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from there, also from what a version with more or fewer fields has left."""
        self.serving = self.target = memory["serving"]
        self.newest, self.ever_ready = memory["newest"], True
        names = {each.name for each in fields(Child)}
        for each in memory["children"]:
            known = {name: value for name, value in each.items() if name in names}
            child = Child(**known | {"state": State(each["state"])})
            self.children[child.pid] = child

    # ---- what is wanted

    def begin(self) -> int:
        """Start a reload, or start the one under way over; return the new generation."""
        self.newest += 1
        self.target = self.newest
        return self.target

    def abandon(self) -> None:
        """Give up a generation that has not proved itself; the old one has not been touched."""
        self.target = self.serving

    def killed(self, kill: Kill, now: float) -> None:
        """A `Kill` was carried out."""
        child = self.children.get(kill.pid)
        if child is None:
            return
        if kill.signal in (SIGTERM, SIGQUIT):
            child.hurried = kill.signal == SIGQUIT
            grace = ABORT_GRACE if child.hurried else self.graceful_timeout
            self._retire(child, now + grace)
        else:
            child.state, child.deadline = State.ABORTED, now + ABORT_GRACE

    def _retire(self, child: Child, deadline: float) -> None:
        child.state, child.unwanted, child.deadline = State.RETIRING, True, deadline

    # ---- what follows

    def plan(self, now: float) -> Iterator[Spawn | Kill]:
        """Yield what turns the pool we have into the pool we want."""
        alive = self.alive()
        if self.want == 0:
            yield from self._plan_end(alive)
        elif self.proving():
            yield from self._plan_canary(alive, now)
        else:
            yield from self._plan_rollout(alive, now)

    def _plan_end(self, alive: list[Child]) -> Iterator[Kill]:
        """All workers go: drained, or at once, also those that are draining already."""
        if not self.quick:
            yield from (Kill(child.pid, SIGTERM, "not wanted any more") for child in alive)
            return
        for child in self.children.values():
            if child.state is not State.ABORTED and not child.hurried:
                yield Kill(child.pid, SIGQUIT, "not wanted any more, at once")

    def _plan_canary(self, alive: list[Child], now: float) -> Iterator[Spawn | Kill]:
        others = [child for child in alive if child.generation != self.target]
        rejected = [child for child in others if child.generation > self.serving]
        kept = [child for child in others if child.generation <= self.serving]
        surplus = self._surplus(kept)
        yield from (Kill(child.pid, SIGTERM, "superseded") for child in rejected)
        yield from (Kill(child.pid, SIGTERM, "fewer workers") for child in surplus)
        room = self.want + self.surge - (len(alive) - len(rejected) - len(surplus))
        if room > 0 and not any(one.generation == self.target for one in self.children.values()):
            yield Spawn(self.target)
            room -= 1
        yield from self._spawn(self.serving, min(self.want - len(kept), room), now)

    def _plan_rollout(self, alive: list[Child], now: float) -> Iterator[Spawn | Kill]:
        fresh = [child for child in alive if child.generation == self.target and not child.tired]
        old = [child for child in alive if child.generation != self.target or child.tired]
        booting = [child for child in old if child.state is State.BOOTING]
        spare = sum(child.state is State.READY for child in alive) - self.want
        leaving = [child for child in old if child.state is State.READY][: max(spare, 0)]
        most = self.want + self.surge + len(booting) + len(leaving)
        surplus = self._surplus(fresh, len(alive) - most)
        yield from (Kill(child.pid, SIGTERM, "superseded") for child in booting)
        for child in leaving:
            yield Kill(child.pid, SIGTERM, "tired" if child.tired else "replaced")
        yield from (Kill(child.pid, SIGTERM, "fewer workers") for child in surplus)
        room = most + len(surplus) - len(alive)
        yield from self._spawn(self.target, min(self.want - len(fresh), room), now)

    def _surplus(self, children: list[Child], least: int = 0) -> list[Child]:
        """More than wanted: those that cannot serve yet go first, then the longest in service."""
        children = sorted(children, key=lambda child: (child.state is State.READY, child.age))
        return children[: max(len(children) - self.want, least, 0)]

    def _spawn(self, generation: int, wanted: int, now: float) -> Iterator[Spawn]:
        """At most what the generation's throttle allows: after a failure, one at a time."""
        throttle = self._throttle(generation, now)
        if wanted > 0 and throttle.failures:
            booting = any(
                child.state is State.BOOTING and child.generation == generation
                for child in self.children.values()
            )
            wanted = 0 if booting or now < throttle.not_before() else 1
        yield from (Spawn(generation) for _ in range(wanted))

    def _throttle(self, generation: int, now: float) -> Throttle:
        """The generation's throttle, forgotten once a later worker has lived long enough."""
        throttle = self.throttles.setdefault(generation, Throttle())
        if throttle.failures and any(
            child.generation == generation
            and child.ready_at > throttle.last
            and child.ready_at + YOUNG <= now
            for child in self.children.values()
        ):
            throttle.failures = 0
        return throttle

    def late(self, now: float) -> Iterator[Kill]:
        """Yield what happens to the workers that are past a deadline: evidence, then the end."""
        for child in self.children.values():
            if child.due() > now:
                continue
            if child.state is State.ABORTED:
                yield Kill(child.pid, SIGKILL, "did not die of SIGABRT")
            elif child.stopped:
                yield Kill(child.pid, SIGABRT, "stayed stopped for too long")
            elif child.state is State.BOOTING:
                yield Kill(child.pid, SIGABRT, "did not boot in time")
            elif child.deadline <= now:
                yield Kill(child.pid, SIGABRT, "did not drain in time")
            else:
                yield Kill(child.pid, SIGABRT, "was silent for too long")

    def next_deadline(self, now: float) -> float:
        """When `plan` or `late` may have something new to say though nothing was heard."""
        waits = [
            throttle.not_before()
            for generation, throttle in self.throttles.items()
            if generation in (self.serving, self.target) and throttle.not_before() > now
        ]
        return min([child.due() for child in self.children.values()] + waits, default=inf)

    # ---- questions

    def alive(self) -> list[Child]:
        """Workers that serve or will, the longest in service first."""
        return sorted(
            (child for child in self.children.values() if child.state in ALIVE),
            key=lambda child: child.age,
        )

    def count(self, state: State) -> int:
        return sum(child.state is state for child in self.children.values())

    def ready_of(self, generation: int) -> int:
        return sum(
            child.generation == generation and child.state is State.READY
            for child in self.children.values()
        )

    def up(self) -> bool:
        """Whether the first boot is over: all are ready, or those that could be are."""
        ready = self.count(State.READY)
        return ready > 0 and (ready >= self.want or not self.count(State.BOOTING))

    def can_serve(self, now: float) -> bool:
        """Whether some worker is able to finish requests, or boots and is not late yet."""
        return self.want == 0 or any(
            child.state in ALIVE and child.due() > now for child in self.children.values()
        )

    def proving(self) -> bool:
        """Whether a canary has still to show that the target generation can serve."""
        return self.target != self.serving

    def settled(self) -> bool:
        """Whether the pool is what we want and every new connection goes to the target."""
        fresh = self.ready_of(self.target)
        return not self.proving() and fresh >= self.want and not self.lingering()

    def lingering(self) -> list[Child]:
        """Workers of older generations that may still accept a connection."""
        return [
            child
            for child in self.children.values()
            if child.generation != self.target and child.accepting and child.ready_at < inf
        ]
