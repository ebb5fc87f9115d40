"""What the pool decides: which workers come and go, when, and why. Nothing is forked."""

from math import inf
from signal import SIGABRT, SIGKILL, SIGQUIT, SIGTERM

import pytest

from prefork_sd.pool import (
    ABORT_GRACE,
    FIRST_DELAY,
    LONGEST_DELAY,
    STOPPED_GRACE,
    YOUNG,
    Child,
    Kill,
    Pool,
    Spawn,
    State,
)


class Stage:
    """A pool, a clock, and everything that an arbiter would do."""

    def __init__(self, want: int = 4, surge: int = 1) -> None:
        self.pool = Pool(want=want, surge=surge)
        self.now = 100.0
        self.pids = 0

    def turn(self) -> list[Spawn | Kill]:
        """Carry out what is late and what is planned; return it."""
        steps: list[Spawn | Kill] = [*self.pool.late(self.now)]
        for kill in steps:
            assert isinstance(kill, Kill)
            self.pool.killed(kill, self.now)
        planned = list(self.pool.plan(self.now))
        for step in planned:
            if isinstance(step, Kill):
                self.pool.killed(step, self.now)
            else:
                self.pids += 1
                self.pool.add(self.pids, self.pids, step.generation, self.now, boot_timeout=60.0)
        return steps + planned

    def boot(self, *pids: int) -> None:
        """These workers, or all that boot, say that they are ready."""
        booting = [pid for pid, child in self.pool.children.items() if is_booting(child)]
        for pid in pids or booting:
            assert self.pool.observe(pid, self.now, booted=True)

    def start(self) -> None:
        self.turn()
        self.boot()
        assert self.turn() == []

    def die(self, pid: int) -> None:
        assert self.pool.remove(pid, self.now) is not None

    def leave(self) -> None:
        """All that were told to go are gone."""
        for pid, child in list(self.pool.children.items()):
            if child.state is State.RETIRING:
                self.die(pid)

    def pids_of(self, state: State) -> list[int]:
        return [pid for pid, child in self.pool.children.items() if child.state is state]


def is_booting(child: Child) -> bool:
    return child.state is State.BOOTING


def spawns(steps: list[Spawn | Kill]) -> list[int]:
    return [step.generation for step in steps if isinstance(step, Spawn)]


def kills(steps: list[Spawn | Kill]) -> list[tuple[int, int, str]]:
    return [(step.pid, step.signal, step.reason) for step in steps if isinstance(step, Kill)]


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def served(stage: Stage) -> Stage:
    """Four workers that are ready and have been for a while."""
    stage.start()
    stage.now += 60
    return stage


# ---- start and number


def test_it_starts_all_workers_at_once_and_is_up_when_they_are_ready(stage: Stage) -> None:
    assert spawns(stage.turn()) == [1, 1, 1, 1]
    assert not stage.pool.up()
    stage.boot(1, 2, 3)
    assert not stage.pool.up()
    stage.boot(4)
    assert stage.pool.up()
    assert stage.pool.settled()
    assert stage.turn() == []


def test_it_is_up_without_those_that_failed_once_nothing_boots_any_more(stage: Stage) -> None:
    stage.turn()
    stage.boot(1)
    for pid in (2, 3, 4):
        stage.die(pid)
    assert stage.pool.up()
    assert not stage.pool.settled()


def test_one_more_and_one_fewer(served: Stage) -> None:
    served.pool.want = 5
    assert spawns(served.turn()) == [1]
    served.pool.want = 4
    assert kills(served.turn()) == [(5, SIGTERM, "fewer workers")]  # it does not serve yet
    served.leave()
    served.pool.want = 2
    assert [pid for pid, *_ in kills(served.turn())] == [1, 2]  # the longest in service
    assert served.turn() == []  # and nobody is told twice


def test_a_dead_worker_is_replaced_at_once(served: Stage) -> None:
    served.die(2)
    assert served.turn() == [Spawn(1)]
    assert served.turn() == []


def test_a_child_that_is_not_ours_never_counts(served: Stage) -> None:
    assert served.pool.remove(4711, served.now) is None
    assert served.turn() == []


def test_a_worker_that_drains_by_itself_is_replaced_and_not_told_again(served: Stage) -> None:
    served.pool.observe(3, served.now, booted=True, accepting=False)
    assert served.turn() == [Spawn(1)]


def test_a_worker_that_drains_before_it_was_seen_ready_counts_for_nobody(served: Stage) -> None:
    served.pool.begin()
    served.turn()
    served.pool.observe(5, served.now, booted=True, accepting=False)
    assert kills(served.turn()) == []  # nobody may leave for the sake of it


def test_a_tired_worker_serves_until_its_successor_is_ready(served: Stage) -> None:
    served.pool.observe(1, served.now, booted=True, tired=True)
    assert served.turn() == [Spawn(1)]
    assert served.turn() == []
    served.boot()
    assert kills(served.turn()) == [(1, SIGTERM, "tired")]


def test_not_all_tired_workers_are_replaced_at_a_time(served: Stage) -> None:
    for pid in (1, 2, 3, 4):
        served.pool.observe(pid, served.now, booted=True, tired=True)
    assert spawns(served.turn()) == [1]


def test_want_none_retires_all_and_brings_them_back(served: Stage) -> None:
    served.pool.want = 0
    assert {signum for _, signum, _ in kills(served.turn())} == {SIGTERM}
    assert served.turn() == []
    assert served.pool.can_serve(served.now)  # a pause is no failure
    served.pool.want = 4
    assert spawns(served.turn()) == [1, 1, 1, 1]


def test_a_quick_end_overtakes_a_graceful_one(served: Stage) -> None:
    served.pool.want = 0
    served.turn()
    served.pool.quick = True
    assert {signum for _, signum, _ in kills(served.turn())} == {SIGQUIT}
    assert served.turn() == []
    served.now += ABORT_GRACE
    assert {signum for _, signum, _ in kills(served.turn())} == {SIGABRT}


# ---- reload


def test_a_reload_begins_with_one_canary_and_touches_nobody(served: Stage) -> None:
    assert served.pool.begin() == 2
    assert served.turn() == [Spawn(2)]
    assert served.turn() == []
    assert served.pool.proving()
    assert not served.pool.settled()


def test_an_old_worker_leaves_only_when_a_new_one_is_ready(served: Stage) -> None:
    served.pool.begin()
    served.turn()
    for left in ([1], [2], [3], [4]):
        served.boot()
        steps = served.turn()
        assert [pid for pid, *_ in kills(steps)] == left
        assert served.pool.count(State.READY) == 4
    assert served.pool.lingering()
    assert not served.pool.settled()  # an old one may still accept
    for pid in served.pids_of(State.RETIRING):
        served.pool.observe(pid, served.now, booted=True, accepting=False)
    assert served.pool.settled()  # though they still drain


def test_surge_says_how_many_are_replaced_at_a_time() -> None:
    stage = Stage(want=8, surge=3)
    stage.start()
    stage.pool.begin()
    stage.turn()
    stage.boot()
    steps = stage.turn()
    assert len(kills(steps)) == 1
    assert spawns(steps) == [2, 2, 2]


def test_an_abandoned_canary_leaves_the_old_generation_alone(served: Stage) -> None:
    served.pool.begin()
    served.turn()
    served.pool.abandon()
    assert kills(served.turn()) == [(5, SIGTERM, "superseded")]
    served.leave()
    assert served.pool.settled()
    assert served.pool.serving == 1


def test_a_generation_number_is_never_used_twice(served: Stage) -> None:
    served.pool.begin()
    served.pool.abandon()
    assert served.pool.begin() == 3


def test_a_second_reload_replaces_the_canary(served: Stage) -> None:
    served.pool.begin()
    served.turn()
    served.pool.begin()
    steps = served.turn()
    assert kills(steps) == [(5, SIGTERM, "superseded")]
    assert spawns(steps) == [3]


def test_a_reload_in_the_middle_of_another_one_takes_nobody_who_serves(served: Stage) -> None:
    served.pool.begin()
    served.turn()
    served.boot()
    served.turn()  # worker 1 leaves, worker 6 boots
    assert served.pool.count(State.BOOTING) == 1
    served.pool.begin()
    steps = served.turn()
    assert kills(steps) == [(6, SIGTERM, "fewer workers")]
    assert spawns(steps) == [3]
    assert served.pool.count(State.READY) == 4


def test_a_worker_that_dies_while_a_canary_boots_is_replaced_by_its_own_kind(served: Stage) -> None:
    served.pool.begin()
    served.turn()
    served.die(1)
    assert served.turn() == [Spawn(1)]


def test_workers_of_an_old_generation_that_still_boot_are_not_waited_for(served: Stage) -> None:
    served.die(1)
    served.pool.begin()
    served.turn()
    canary = next(pid for pid, one in served.pool.children.items() if one.generation == 2)
    served.boot(canary)
    assert "superseded" in {reason for *_, reason in kills(served.turn())}


# ---- crash loops


def test_the_first_crash_is_replaced_at_once_and_the_next_ones_with_growing_delay() -> None:
    stage = Stage(want=1)
    stage.turn()
    waits = []
    for _ in range(12):
        [pid] = stage.pids_of(State.BOOTING)
        stage.die(pid)
        before = stage.now
        if not stage.turn():
            assert stage.pool.next_deadline(stage.now) > stage.now
            stage.now = stage.pool.next_deadline(stage.now)
            assert stage.turn() == [Spawn(1)]
        waits.append(stage.now - before)
    assert waits[:4] == [0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert waits[-1] == LONGEST_DELAY
    assert waits == sorted(waits)


def test_when_every_worker_dies_at_boot_there_is_no_fork_storm() -> None:
    stage = Stage(want=16, surge=4)
    forks = len(stage.turn())
    end = stage.now + 5
    while stage.now < end:
        for pid in stage.pids_of(State.BOOTING):
            stage.die(pid)
        forks += len(stage.turn())
        stage.now = min(end, max(stage.now + 0.001, stage.pool.next_deadline(stage.now)))
    assert forks <= 16 + 6


def test_workers_that_die_young_are_throttled_and_those_that_do_not_are_not(served: Stage) -> None:
    for pid in (1, 2, 3, 4):
        served.die(pid)  # all had served for a minute
    assert len(served.turn()) == 4
    for pid in (5, 6, 7, 8):
        served.boot(pid)
        served.die(pid)
    assert served.turn() == []
    served.now = served.pool.next_deadline(served.now)
    assert served.turn() == [Spawn(1)]


def test_one_that_dies_young_beside_healthy_ones_says_nothing(served: Stage) -> None:
    served.die(1)
    assert served.turn() == [Spawn(1)]
    for pid in (5, 6, 7, 8):
        served.boot(pid)
        served.die(pid)
        assert served.turn() == [Spawn(1)]


def test_a_crash_loop_is_forgotten_when_a_later_worker_has_lived_long_enough() -> None:
    stage = Stage(want=1)
    stage.turn()
    for _ in range(4):
        stage.die(stage.pids)
        if not stage.turn():
            stage.now = stage.pool.next_deadline(stage.now)
            stage.turn()
    stage.boot()
    stage.now += YOUNG
    assert stage.turn() == []
    for _ in range(2):
        stage.die(stage.pids)
        assert stage.turn() == [Spawn(1)]


def test_a_new_generation_begins_without_the_delays_of_the_old_one(served: Stage) -> None:
    served.pool.begin()
    served.turn()
    served.boot()
    served.turn()
    for _ in range(5):
        for pid in served.pids_of(State.BOOTING):
            served.die(pid)
        served.now = served.pool.next_deadline(served.now)
        served.turn()
    assert served.pool.count(State.READY) == 4  # the old ones that were not replaced stay
    served.pool.begin()
    assert Spawn(3) in served.turn()


def test_a_fork_that_fails_is_not_tried_again_at_once_and_not_forgotten(served: Stage) -> None:
    served.die(1)
    served.pool.fork_failed(Spawn(1), served.now)
    assert list(served.pool.plan(served.now)) == []
    assert served.pool.next_deadline(served.now) == served.now + FIRST_DELAY
    served.now += FIRST_DELAY
    assert served.turn() == [Spawn(1)]


# ---- deadlines


def test_a_worker_hung_in_boot_is_aborted_and_then_killed(stage: Stage) -> None:
    stage.turn()
    stage.boot(1, 2, 3)
    assert stage.pool.next_deadline(stage.now) == stage.now + 60
    stage.now += 60
    assert kills(stage.turn()) == [(4, SIGABRT, "did not boot in time")]
    assert kills(stage.turn()) == []
    stage.now += ABORT_GRACE
    assert kills(stage.turn()) == [(4, SIGKILL, "did not die of SIGABRT")]


def test_a_silent_worker_is_aborted(served: Stage) -> None:
    served.pool.observe(2, served.now, booted=True, promise=served.now + 30)
    assert served.pool.next_deadline(served.now) == served.now + 30
    served.now += 30
    assert kills(served.turn())[0] == (2, SIGABRT, "was silent for too long")
    assert served.turn() == []


def test_an_aborted_worker_is_replaced_before_it_is_dead(served: Stage) -> None:
    served.pool.observe(2, served.now, booted=True, promise=served.now)
    assert spawns(served.turn()) == [1]


def test_a_drain_is_bounded(served: Stage) -> None:
    served.pool.want = 3
    served.turn()
    served.now += served.pool.graceful_timeout
    assert kills(served.turn()) == [(1, SIGABRT, "did not drain in time")]


def test_a_worker_that_hangs_while_it_drains_is_not_waited_for(served: Stage) -> None:
    served.pool.want = 3
    served.turn()
    served.pool.observe(1, served.now, booted=True, promise=served.now + 1, accepting=False)
    served.now += 1
    assert kills(served.turn()) == [(1, SIGABRT, "was silent for too long")]


def test_a_stopped_worker_has_to_be_continued(served: Stage) -> None:
    served.pool.stopped(2, served.now)
    served.now += STOPPED_GRACE
    reason = "stayed stopped for too long"
    assert kills(served.turn()) == [(2, SIGABRT, reason)]


@pytest.mark.parametrize("state", [State.BOOTING, State.READY, State.RETIRING])
def test_a_continued_worker_is_as_it_was(state: State) -> None:
    stage = Stage(want=1)
    stage.turn()
    if state is not State.BOOTING:
        stage.boot()
    if state is State.RETIRING:
        stage.pool.want = 0
        stage.turn()
    due = stage.pool.children[1].due()
    stage.pool.stopped(1, stage.now)
    assert stage.pool.next_deadline(stage.now) == stage.now + STOPPED_GRACE
    stage.pool.continued(1)
    assert stage.pool.children[1].due() == due
    stage.now += STOPPED_GRACE
    assert stage.turn() == []


def test_an_aborted_worker_that_is_stopped_is_killed_no_later(served: Stage) -> None:
    served.pool.observe(2, served.now, booted=True, promise=served.now)
    served.turn()
    served.pool.stopped(2, served.now)
    served.now += ABORT_GRACE
    assert kills(served.turn()) == [(2, SIGKILL, "did not die of SIGABRT")]


def test_nothing_is_due_in_a_service_without_promises(served: Stage) -> None:
    assert served.pool.next_deadline(served.now) == inf


def test_the_watchdog_is_fed_while_somebody_can_serve_or_boots_in_time(served: Stage) -> None:
    for pid in (1, 2, 3, 4):
        served.pool.observe(pid, served.now, booted=True, promise=served.now + 30)
    assert served.pool.can_serve(served.now)
    served.now += 30
    assert not served.pool.can_serve(served.now)
    served.turn()
    assert served.pool.can_serve(served.now)  # the replacements boot
    served.now += 60
    assert not served.pool.can_serve(served.now)
