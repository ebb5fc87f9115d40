"""The pool under anything in any order: many thousand random steps, and what must always hold.

A world of simulated processes takes the arbiter's place and follows the same order of work. A
failure names the seed; `test_any_history(SEED)` repeats it.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from signal import SIGABRT, SIGKILL, SIGQUIT, SIGTERM, Signals

import pytest

from prefork_sd.pool import Kill, Pool, Spawn, State

STEPS = 400  # in one history
MOST = 9  # workers wanted
MOST_SURGE = 3
BOOT_TIMEOUT, TIMEOUT = 20.0, 10.0


@dataclass
class Process:
    """What a worker really is. The pool learns of it only through `World.observe`."""

    pid: int
    generation: int
    booted: bool = False
    accepting: bool = True
    tired: bool = False
    hung: bool = False  # no longer heard of; hears SIGABRT
    stuck: bool = False  # hears nothing but SIGKILL
    stopped: bool = False
    promise: float = inf


class World:
    """Processes, a clock, an administrator, and the verbs of an arbiter."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 1000.0
        self.want = rng.randint(1, MOST)
        self.pool = Pool(want=self.want, surge=rng.randint(1, MOST_SURGE), graceful_timeout=15.0)
        self.pool.ever_ready = True  # the first start is another story: it halts
        self.processes: dict[int, Process] = {}
        self.dead: list[int] = []
        self.told: dict[int, list[Signals]] = {}
        self.pids = 0
        self.paused = self.stopping = False
        self.under_way = 0  # generation of a reload
        self.fork_fails = False

    def any(self, *, booted: bool | None = None) -> Process | None:
        found = [one for one in self.processes.values() if booted in (None, one.booted)]
        return self.rng.choice(found) if found else None

    # ---- what can happen

    def boots(self) -> None:
        if (one := self.any(booted=False)) and not (one.stopped or one.stuck or one.hung):
            one.booted = True
            self.beat(one)

    def all_boot(self) -> None:
        for _ in range(len(self.processes)):
            self.boots()

    def beats(self) -> None:
        for one in self.processes.values():
            self.beat(one)

    def beat(self, one: Process) -> None:
        if one.booted and not (one.hung or one.stuck or one.stopped):
            one.promise = self.now + TIMEOUT

    def crashes(self) -> None:
        if one := self.any():
            self.end(one)

    def hangs(self) -> None:
        if one := self.any():
            one.hung = True

    def gets_stuck(self) -> None:
        if one := self.any():
            one.stuck = True

    def tires(self) -> None:
        if one := self.any(booted=True):
            one.tired = True

    def drains_unasked(self) -> None:
        if one := self.any(booted=True):
            one.accepting = False

    def finishes(self) -> None:
        for one in list(self.processes.values()):
            if not one.accepting and not (one.hung or one.stuck or one.stopped):
                self.end(one)

    def stops(self) -> None:
        if one := self.any():
            one.stopped = True
            self.pool.stopped(one.pid, self.now)

    def continues(self) -> None:
        for one in self.processes.values():
            if one.stopped:
                one.stopped = False
                self.beat(one)
                self.pool.continued(one.pid)

    def stranger_dies(self) -> None:
        assert self.pool.remove(999_999, self.now) is None

    def time_passes(self) -> None:
        self.now += self.rng.choice((0.01, 0.3, 1.0, 2.5, 7.0))

    def deadline_comes(self) -> None:
        if (deadline := self.pool.next_deadline(self.now)) < inf:
            self.now = max(self.now, deadline)

    def forks_fail(self) -> None:
        self.fork_fails = True

    def reload(self) -> None:
        if not self.stopping:
            self.paused = False
            self.pool.want = self.want
            self.under_way = self.pool.begin()

    def reexecs(self) -> None:
        """Another image goes on with the same processes, and rolls them over."""
        if not (self.stopping or self.under_way):
            left = json.loads(json.dumps(self.pool.memory()))
            before = self.pool
            self.pool = Pool(want=self.want, surge=before.surge, graceful_timeout=15.0)
            self.pool.recall(left)
            assert self.pool.children == before.children
            self.reload()

    def reload_with_a_broken_file(self) -> None:
        if not self.stopping:
            self.conclude()

    def one_more(self) -> None:
        self.paused = False
        self.scale(min(self.want + 1, MOST))

    def one_fewer(self) -> None:
        self.scale(max(self.want - 1, 1))

    def another_number(self) -> None:
        self.scale(self.rng.randint(1, MOST))

    def scale(self, number: int) -> None:
        self.want = number
        self.pool.want = 0 if self.paused or self.stopping else number
        self.pool.surge = self.rng.randint(1, MOST_SURGE)

    def winch(self) -> None:
        self.paused = True
        self.pool.want = 0
        self.conclude()

    def stop(self) -> None:
        self.stopping = True
        self.pool.want = 0
        self.conclude()

    def stop_quickly(self) -> None:
        self.stop()
        self.pool.quick = True

    def conclude(self) -> None:
        """The end of a reload that did not prove itself."""
        self.under_way = 0
        self.pool.abandon()

    # ---- the arbiter

    def end(self, one: Process) -> None:
        del self.processes[one.pid]
        self.dead.append(one.pid)

    def turn(self) -> None:
        """As `Arbiter.turn`, with every promise of the pool checked."""
        self.reap()
        self.observe()
        for kill in list(self.pool.late(self.now)):
            self.kill(kill)
        failing = self.fork_fails
        self.carry_out(list(self.pool.plan(self.now)))
        if failing and not self.fork_fails:  # the arbiter wakes itself up after such a failure
            self.carry_out(list(self.pool.plan(self.now)))
        assert list(self.pool.plan(self.now)) == [], "a plan that was carried out is not enough"
        if self.under_way and self.pool.settled():
            self.under_way = 0
        self.check()

    def reap(self) -> None:
        while self.dead:
            pid = self.dead.pop()
            child = self.pool.remove(pid, self.now)
            assert child is not None, "a worker that the pool does not know"
            if child.ready_at == inf and not child.unwanted:
                self.boot_failed(child.generation)

    def boot_failed(self, generation: int) -> None:
        if generation == self.under_way and self.pool.proving():
            self.conclude()

    def observe(self) -> None:
        for one in self.processes.values():
            self.pool.observe(
                one.pid,
                self.now,
                booted=one.booted,
                promise=one.promise,
                accepting=one.accepting,
                tired=one.tired,
            )

    def carry_out(self, plan: list[Spawn | Kill]) -> None:
        for step in plan:
            if isinstance(step, Kill):
                child = self.pool.children[step.pid]
                counted = child.state is State.READY and child.generation <= self.pool.serving
                self.kill(step)
                if counted and self.pool.want:
                    assert self.ready() >= self.pool.want, f"{step}: fewer ready than promised"
            elif self.fork_fails:
                self.fork_fails = False
                self.pool.fork_failed(step, self.now)
                self.boot_failed(step.generation)
            else:
                self.spawn(step)

    def spawn(self, step: Spawn) -> None:
        assert step.generation in (self.pool.serving, self.pool.target)
        assert not self.stopping
        assert not self.paused
        self.pids += 1
        self.processes[self.pids] = Process(self.pids, step.generation)
        self.pool.add(self.pids, self.pids, step.generation, self.now, BOOT_TIMEOUT)

    def kill(self, kill: Kill) -> None:
        one = self.processes[kill.pid]
        assert kill.reason, f"{kill}: without a reason"
        told = self.told.setdefault(kill.pid, [])
        assert kill.signal is SIGKILL or kill.signal not in told, f"{kill}: told twice"
        assert kill.signal is not SIGKILL or SIGABRT in told, f"{kill}: without evidence"
        assert not (kill.signal is SIGTERM and told), f"{kill}: after {told}"
        told.append(kill.signal)
        self.pool.killed(kill, self.now)
        if kill.signal is SIGKILL or (kill.signal is SIGABRT and not one.stuck):
            self.end(one)
        elif not (one.stuck or one.stopped or one.hung):
            if kill.signal is SIGQUIT or not one.booted:
                self.end(one)
            one.accepting = False

    def ready(self) -> int:
        """Those that serve with code that has proved itself."""
        return sum(
            child.state is State.READY and child.generation <= self.pool.serving
            for child in self.pool.children.values()
        )

    def alive(self) -> int:
        return len(self.pool.alive())

    def check(self) -> None:
        pool = self.pool
        assert self.alive() <= (pool.want + pool.surge if pool.want else 0)
        assert pool.serving <= pool.target <= pool.newest
        assert pool.next_deadline(self.now) > self.now, "the loop would spin"
        known = set(self.processes) | set(self.dead)
        assert set(pool.children) == known, "the pool and the world disagree"

    # ---- the end

    def settle(self) -> None:
        """Nothing new happens: the pool has to become what is wanted, within a bound."""
        self.fork_fails = False
        for _ in range(300):
            self.continues()
            self.all_boot()
            self.finishes()
            self.beats()
            self.turn()
            if self.settled():
                return
            self.now = max(self.now + 0.1, min(self.pool.next_deadline(self.now), self.now + 5))
        raise AssertionError(f"does not settle: {self.pool}")

    def settled(self) -> bool:
        children = self.pool.children.values()
        if not self.pool.want:
            return not children
        fine = all(
            child.state is State.READY and child.generation == self.pool.target and not child.tired
            for child in children
        )
        return fine and len(children) == self.pool.want and self.pool.settled()


OFTEN: list[Callable[[World], None]] = [
    World.boots, World.boots, World.all_boot, World.all_boot, World.beats, World.beats,
    World.finishes, World.finishes, World.time_passes, World.time_passes, World.deadline_comes,
    World.continues, World.crashes, World.reload,
]  # fmt: skip
SELDOM: list[Callable[[World], None]] = [
    World.hangs, World.gets_stuck, World.tires, World.drains_unasked, World.stops, World.forks_fail,
    World.stranger_dies, World.reload, World.reload_with_a_broken_file, World.one_more,
    World.one_fewer, World.another_number, World.winch, World.reexecs,
]  # fmt: skip
LAST: list[Callable[[World], None]] = [World.beats, World.stop, World.stop_quickly]


@pytest.mark.parametrize("seed", range(50))
def test_any_history(seed: int) -> None:
    rng = random.Random(seed)
    world = World(rng)
    trouble = rng.random() / 2
    world.turn()
    for _ in range(STEPS):
        rng.choice(SELDOM if rng.random() < trouble else OFTEN)(world)
        world.turn()
        if rng.random() < 0.01:
            world.settle()
    rng.choice(LAST)(world)
    world.settle()


@pytest.mark.parametrize("seed", range(10))
def test_a_quick_end_after_a_graceful_one(seed: int) -> None:
    world = World(random.Random(seed))
    world.turn()
    world.all_boot()
    world.turn()
    world.stop()
    world.turn()
    world.stop_quickly()
    world.settle()
