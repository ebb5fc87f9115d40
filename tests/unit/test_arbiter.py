"""The arbiter's verbs, driven by signals and by what its workers do; no process is forked."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import inf
from pathlib import Path
from signal import (
    SIGABRT,
    SIGCHLD,
    SIGCONT,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGQUIT,
    SIGTERM,
    SIGTTIN,
    SIGTTOU,
    SIGUSR1,
    SIGWINCH,
    Signals,
)

import pytest

from prefork_sd import herald, process
from prefork_sd.config import MOST_WORKERS
from prefork_sd.errors import ExitCode, HaltServer
from prefork_sd.pool import State
from prefork_sd.process import Exit
from prefork_sd.scoreboard import DRAINING, HUNG, SLOTS, TIRED
from tests.unit.stage import Stage

MakeStage = Callable[..., Stage]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeStage]:
    for name in ("RUNTIME_DIRECTORY", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NOTIFY_SOCKET", "")  # put back afterwards
    monkeypatch.setattr(process, "set_title", lambda title: None)
    with ExitStack() as stack:

        def make(**settings: object) -> Stage:
            stage = Stage(tmp_path, **settings)
            stack.callback(stage.close)
            return stage

        yield make


@pytest.fixture
def stage(make: MakeStage) -> Stage:
    """Three workers that serve."""
    stage = make()
    stage.start()
    return stage


# ---- start


def test_ready_is_said_once_and_only_when_all_workers_are(make: MakeStage) -> None:
    stage = make()
    stage.arbiter.start()
    stage.turn()
    assert len(stage.workers(State.BOOTING)) == 3
    stage.boot(*stage.workers()[:2])
    stage.turn()
    heard = stage.heard()
    assert not [message for message in heard if "READY" in message]
    assert heard[-1]["STATUS"] == "booting: 2 of 3 workers are ready"
    stage.boot()
    stage.turn()
    stage.turn()
    [ready] = [message for message in stage.heard() if "READY" in message]
    assert ready["STATUS"] == "serving: 3 of 3 workers ready, generation 1"


@pytest.mark.parametrize(
    ("status", "halt"),
    [
        (ExitCode.APP_LOAD_ERROR, ExitCode.APP_LOAD_ERROR),
        (ExitCode.CONFIG, ExitCode.CONFIG),
        (7, ExitCode.WORKER_BOOT_ERROR),
        (0, ExitCode.WORKER_BOOT_ERROR),
    ],
)
def test_a_start_that_cannot_succeed_halts_with_the_reason(
    make: MakeStage, status: int, halt: int
) -> None:
    stage = make()
    stage.arbiter.start()
    stage.turn()
    stage.die(stage.workers()[0], status, words='cannot import "shop:app"\nTraceback ...')
    with pytest.raises(HaltServer) as caught:
        stage.turn()
    assert caught.value.exit_status == halt
    if status:
        assert str(caught.value) == 'cannot import "shop:app"'
    assert len(stage.workers()) == 2  # nobody was forked in vain


def test_why_a_start_failed_is_on_record_once_and_in_the_status(make: MakeStage) -> None:
    stage = make()
    stage.obey()
    stage.arbiter.start()
    stage.turn()
    stage.die(stage.workers()[0], ExitCode.APP_LOAD_ERROR, words='cannot import "shop:app"')
    with pytest.raises(HaltServer) as caught:
        stage.turn()
    halt = caught.value
    stage.arbiter.halt(halt.reason, halt.exit_status, halt.record)
    told = [record.getMessage() for record in stage.journal.records]
    assert [text for text in told if "cannot import" in text] == stage.journal.of(
        "worker-boot-failed"
    )
    assert stage.journal.of("worker-boot-failed")[0].endswith('cannot import "shop:app"')
    assert stage.journal.of("stop") == ["halted: no worker could boot"]
    assert stage.heard()[-1]["STATUS"] == 'cannot import "shop:app"'


def test_once_a_worker_was_ready_a_failing_one_never_halts_the_service(make: MakeStage) -> None:
    stage = make()
    stage.arbiter.start()
    stage.turn()
    first, second, third = stage.workers()
    stage.boot(first)
    stage.turn()
    stage.die(second, 3, words="no")
    stage.die(third, 3, words="no")
    stage.turn()
    assert "READY" in stage.said("READY")
    stage.die(first, signum=SIGKILL)
    stage.turn()  # no worker is ready now, and still it goes on
    assert stage.pool.next_deadline(time.monotonic()) < time.monotonic() + 60


def test_a_start_without_a_fork_halts(make: MakeStage) -> None:
    stage = make()
    stage.kernel.refusal = OSError(errno.EAGAIN, "not now")
    stage.arbiter.start()
    with pytest.raises(HaltServer, match="cannot start a worker"):
        stage.turn()


def test_a_later_fork_that_fails_is_tried_again(stage: Stage) -> None:
    stage.kernel.refusal = OSError(errno.EAGAIN, "not now")
    stage.die(stage.workers()[0], signum=SIGKILL)
    stage.turn()
    stage.turn()
    assert len(stage.workers()) == 2
    assert len(stage.journal.of("worker-boot-failed")) == 1  # not in each turn
    now = time.monotonic()
    assert now < stage.pool.next_deadline(now) <= now + 1
    stage.kernel.refusal = None
    stage.pool.throttles[1].last = 0.0
    stage.turn()
    assert len(stage.workers()) == 3


def test_a_class_of_workers_that_fails_is_a_boot_that_fails(
    make: MakeStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_workers.py").write_text(
        "from prefork_sd.workers.sync import SyncWorker\n"
        "class Bad(SyncWorker):\n"
        "    def __init__(self, *arguments):\n"
        "        raise ValueError('on purpose')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    stage = make(worker_class="shop_workers.Bad")
    stage.arbiter.start()
    with pytest.raises(HaltServer, match="on purpose"):
        stage.turn()


def test_when_the_scoreboard_is_full_the_service_goes_on(stage: Stage) -> None:
    taken = [stage.arbiter.scoreboard.take() for _ in range(SLOTS - 3)]
    stage.signal(SIGTTIN)
    assert "no more than" in stage.journal.of("worker-boot-failed")[0]
    assert len(stage.workers()) == 3
    for slot in taken:
        stage.arbiter.scoreboard.give_back(slot)


# ---- reload


def test_hup_replaces_workers_only_when_new_ones_are_ready(stage: Stage) -> None:
    old = {worker.pid for worker in stage.workers()}
    stage.signal(SIGHUP)
    assert len(stage.workers(generation=2)) == 1
    assert stage.kernel.sent == []  # nobody left before a successor was ready
    while not stage.pool.settled():
        assert stage.pool.count(State.READY) == 3
        stage.boot()
        stage.turn()
        assert stage.pool.count(State.READY) >= 3
        stage.drain()
        stage.turn()
    assert set(stage.signals(SIGTERM)) == old
    assert {signum for _, signum in stage.kernel.sent} == {SIGTERM}
    assert len(stage.workers(State.READY, generation=2)) == 3


def test_ready_follows_reloading_when_no_old_worker_accepts_any_more(stage: Stage) -> None:
    stage.signal(SIGHUP)
    [reloading] = [message for message in stage.heard() if "RELOADING" in message]
    assert abs(int(reloading["MONOTONIC_USEC"]) / 1e6 - time.monotonic()) < 10
    for _ in range(10):
        stage.boot()
        stage.turn()
    assert len(stage.workers(State.READY, generation=2)) == 3
    assert stage.said("READY") == []  # the old ones have not said that they accept no more
    for worker in stage.workers(State.RETIRING):
        worker.tmp.raise_flag(DRAINING)
    stage.turn()
    assert stage.said("ERRNO", "READY") == ["ERRNO", "READY"]
    assert stage.journal.of("reload-done")


def test_a_reload_of_a_broken_file_touches_nobody_and_says_why(stage: Stage) -> None:
    before = stage.workers()
    stage.break_configuration()
    stage.signal(SIGHUP)
    heard = stage.heard()
    assert [name for message in heard for name in message if name in ("RELOADING", "READY")] == [
        "RELOADING",
        "READY",
    ]
    assert "unknown setting" in heard[-1]["STATUS"]
    assert [message["ERRNO"] for message in heard if "ERRNO" in message] == [str(errno.EINVAL)]
    assert stage.workers() == before
    assert stage.kernel.sent == []

    stage.configure()
    stage.signal(SIGHUP)
    stage.roll()
    last = stage.heard()
    assert [message["ERRNO"] for message in last if "ERRNO" in message] == ["0"]
    assert "failed" not in stage.arbiter.last_reload


def test_a_canary_that_cannot_boot_ends_the_reload(stage: Stage) -> None:
    before = stage.workers()
    stage.signal(SIGHUP)
    [canary] = stage.workers(generation=2)
    stage.die(canary, 4, words="cannot import\nTraceback of the app")
    stage.turn()
    stage.turn()
    assert stage.workers() == before
    assert stage.kernel.sent == []
    [record] = stage.journal.of("reload-failed")
    assert "cannot import" in record
    assert "Traceback of the app" in record
    assert stage.said("RELOADING", "READY") == ["RELOADING", "READY"]


def test_a_broken_file_while_a_canary_boots_gives_that_one_up_too(stage: Stage) -> None:
    stage.signal(SIGHUP)
    [canary] = stage.workers(generation=2)
    stage.break_configuration()
    stage.signal(SIGHUP)
    assert stage.signals(SIGTERM) == [canary.pid]
    stage.die(canary, signum=SIGTERM)
    for _ in range(3):
        stage.turn()
    assert [worker.generation for worker in stage.workers()] == [1, 1, 1]
    assert stage.arbiter.release is stage.arbiter.releases[1]
    assert stage.said("RELOADING", "READY") == ["RELOADING", "READY"]


def test_a_second_hup_starts_over_with_one_verdict(stage: Stage) -> None:
    stage.signal(SIGHUP)
    [canary] = stage.workers(generation=2)
    stage.signal(SIGHUP)
    assert stage.signals(SIGTERM) == [canary.pid]
    stage.roll()
    assert {worker.generation for worker in stage.workers()} == {3}
    assert stage.said("RELOADING", "READY") == ["RELOADING", "READY"]


def test_a_hup_in_the_middle_of_a_roll_over(stage: Stage) -> None:
    stage.signal(SIGHUP)
    stage.boot()
    stage.turn()
    stage.signal(SIGHUP)
    assert stage.pool.count(State.READY) >= 3
    stage.roll()
    assert {worker.generation for worker in stage.workers()} == {3}


def test_a_hup_before_the_first_ready_does_not_make_it_ready(make: MakeStage) -> None:
    stage = make()
    stage.arbiter.start()
    stage.turn()
    stage.break_configuration()
    stage.signal(SIGHUP)
    assert stage.said("RELOADING", "READY") == []
    stage.boot()
    stage.turn()
    assert stage.said("READY") == ["READY"]


def test_late_failures_are_told_once_they_are_a_pattern_and_tried_again(stage: Stage) -> None:
    stage.signal(SIGHUP)
    stage.boot()
    stage.turn()
    for failures in range(1, 4):
        assert stage.arbiter.under_way is not None
        [late] = stage.workers(State.BOOTING, generation=2)
        stage.die(late, 3, words="no luck")
        stage.turn()
        stage.pool.throttles[2].last = 0.0
        stage.turn()
        assert len(stage.workers(State.BOOTING)) == 1, failures
    assert stage.arbiter.under_way is None
    assert "it will be tried again" in stage.journal.of("reload-failed")[0]
    assert stage.pool.count(State.READY) == 3
    stage.roll()
    assert {worker.generation for worker in stage.workers()} == {2}


def test_the_number_in_the_file_counts_only_when_it_changes(stage: Stage) -> None:
    stage.signal(SIGTTIN)
    stage.signal(SIGHUP)
    stage.roll()
    assert len(stage.workers()) == 4
    stage.configure(workers=2)
    stage.signal(SIGHUP)
    stage.roll()
    assert len(stage.workers()) == 2


def test_what_a_reload_cannot_change_is_said(stage: Stage) -> None:
    stage.configure(bind="127.0.0.1:1", user="root")
    stage.signal(SIGHUP)
    stage.roll()
    warnings = stage.journal.of("config-warning")
    assert any("bind" in text and "shop.socket" in text for text in warnings)
    assert any("user" in text for text in warnings)


def test_a_bound_that_bounds_nobody_is_said(stage: Stage) -> None:
    stage.configure(worker_memory_max=200 << 20)
    stage.signal(SIGHUP)
    stage.roll()
    [warning] = [one for one in stage.journal.of("config-warning") if "worker_memory_max" in one]
    assert "bounds no worker here" in warning


def test_releases_that_nobody_needs_are_forgotten(stage: Stage) -> None:
    for _ in range(5):
        stage.signal(SIGHUP)
        stage.roll()
    stage.signal(SIGHUP)
    stage.roll()
    assert len(stage.arbiter.releases) <= 2


# ---- numbers


def test_ttin_and_ttou(stage: Stage) -> None:
    stage.signal(SIGTTIN, SIGTTIN)
    assert len(stage.workers()) == 5
    stage.boot()
    stage.signal(*[SIGTTOU] * 9)
    assert len(stage.signals(SIGTERM)) == 4  # never the last one
    assert stage.arbiter.num_workers == 1


def test_the_loop_wakes_for_a_minute_of_health(
    make: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(herald, "HEALTHY", 0.2)
    stage = make()
    stage.start()
    began = time.monotonic()
    while not stage.said("RESTART_RESET") and time.monotonic() < began + 10:
        stage.arbiter.sleep()
        stage.turn()
    assert 0.1 < time.monotonic() - began < 5
    assert stage.arbiter.herald.next_reset == inf


def test_ttin_stops_where_the_setting_does(make: MakeStage) -> None:
    stage = make(workers=MOST_WORKERS)
    stage.start()
    stage.signal(SIGTTIN)
    assert stage.arbiter.num_workers == MOST_WORKERS
    (told,) = stage.journal.of("config-warning")
    assert told == f"SIGTTIN: {MOST_WORKERS} workers are the most that there can be"


def test_the_scoreboard_has_a_slot_for_whoever_may_live() -> None:
    old = new = surge = leaving = MOST_WORKERS
    assert old + new + surge + leaving <= SLOTS


def test_winch_retires_all_and_hup_brings_them_back(stage: Stage) -> None:
    stage.signal(SIGWINCH)
    assert len(stage.signals(SIGTERM)) == 3
    stage.drain()
    stage.turn()
    assert stage.workers() == []
    assert stage.arbiter.sockets
    stage.signal(SIGHUP)
    stage.roll()
    assert len(stage.workers()) == 3


def test_winch_ends_a_reload(stage: Stage) -> None:
    stage.signal(SIGHUP)
    stage.signal(SIGWINCH)
    stage.drain()
    stage.turn()
    assert stage.said("RELOADING", "READY") == ["RELOADING", "READY"]
    stage.signal(SIGTTIN)
    stage.roll()
    assert {worker.generation for worker in stage.workers()} == {1}


def test_a_tired_worker_is_replaced_first(stage: Stage) -> None:
    [tired, *_] = stage.workers()
    tired.tmp.raise_flag(TIRED)
    stage.turn()
    assert len(stage.workers(State.BOOTING)) == 1
    assert stage.kernel.sent == []
    stage.boot()
    stage.turn()
    assert stage.signals(SIGTERM) == [tired.pid]


def test_usr1_puts_the_status_on_record(stage: Stage) -> None:
    stage.signal(SIGUSR1)
    assert "serving: 3 of 3" in stage.journal.records[-1].getMessage()


# ---- deaths


def test_a_killed_worker_is_replaced_and_named_by_fact(stage: Stage) -> None:
    [victim, *_] = stage.workers()
    victim.tmp.begin(0, b"GET /report?secret HTTP/1.1\r\n\r\n", time.monotonic())
    stage.die(victim, signum=SIGKILL)
    stage.signal(SIGCHLD)
    assert len(stage.workers()) == 3
    [record] = stage.journal.of("worker-killed")
    assert f"worker {victim.pid} was killed by SIGKILL with GET /report in hand" in record
    assert "secret" not in record


def test_a_stranger_is_reaped_and_does_not_count(stage: Stage) -> None:
    before = stage.workers()
    stage.kernel.exits += [Exit(4711, status=3), Exit(4712, signal=9), Exit(4713, stopped=True)]
    stage.turn()
    assert stage.workers() == before
    assert stage.journal.of("worker-killed") == []


def test_a_silent_worker_leaves_evidence_and_is_killed(stage: Stage) -> None:
    [hung, *_] = stage.workers()
    hung.tmp.promise(time.monotonic() - 1)
    stage.turn()
    assert stage.kernel.sent == [(hung.pid, SIGABRT), (hung.pid, SIGCONT)]
    assert len(stage.workers(State.BOOTING)) == 1  # replaced already
    stage.pool.children[hung.pid].deadline = time.monotonic()
    stage.turn()
    assert stage.kernel.sent[-1] == (hung.pid, SIGKILL)
    stage.die(hung, signum=SIGKILL, words='  File "shop.py", line 3 in report')
    stage.turn()
    [record] = stage.journal.of("worker-hung")
    assert f"worker {hung.pid} was silent for too long and was killed" in record
    assert "in report" in record


def test_a_threaded_worker_with_a_hung_request_is_on_record_at_once(stage: Stage) -> None:
    [hung, *_] = stage.workers()
    hung.words.write('  File "shop.py", line 3 in report')
    hung.tmp.begin(0, b"GET /report HTTP/1.1\r\n\r\n", time.monotonic())
    hung.tmp.raise_flag(HUNG)
    hung.tmp.raise_flag(DRAINING)
    stage.turn()
    stage.turn()
    [record] = stage.journal.of("worker-hung")
    assert "GET /report" in record
    assert "and drains" in record
    assert len(stage.workers(State.BOOTING)) == 1
    assert stage.kernel.sent == []


def test_a_stopped_worker_that_nobody_continues_is_killed(stage: Stage) -> None:
    [stopped, *_] = stage.workers()
    stage.kernel.exits.append(Exit(stopped.pid, signal=19, stopped=True))
    stage.turn()
    assert stage.kernel.sent == []
    stage.pool.children[stopped.pid].patience = time.monotonic()
    stage.turn()
    assert stage.kernel.sent == [(stopped.pid, SIGABRT), (stopped.pid, SIGCONT)]


def test_slots_and_last_words_are_given_back(stage: Stage) -> None:
    free = len(stage.arbiter.scoreboard._free)
    for _ in range(5):
        stage.die(stage.workers()[0], signum=SIGKILL)
        stage.turn()
        stage.signal(SIGHUP)
        stage.roll()
    assert len(stage.arbiter.scoreboard._free) == free
    assert stage.arbiter.reasons == {}


# ---- sleep and the watchdog


def test_a_wakeup_ends_the_sleep(stage: Stage) -> None:
    for pid in stage.pool.children:
        stage.pool.children[pid].promise = time.monotonic() + 1e12
    stage.arbiter.wakeup()
    stage.arbiter.sleep()


def test_a_worker_without_a_timeout_does_not_hide_the_others(
    make: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a release without a timeout is there, the others' requests are still looked after."""
    stage = make(timeout=0.01)
    stage.start()
    stage.configure(timeout=0)
    stage.signal(SIGHUP)
    assert {one.cfg.timeout for one in stage.arbiter.releases.values()} == {0.0, 0.01}
    list(stage.arbiter.SIG_QUEUE.take())
    stage.arbiter.sleep()  # nobody wakes it but its own deadline


def test_the_watchdog_is_fed_only_while_somebody_can_serve(
    make: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    stage = make()
    stage.arbiter.start()
    stage.turn()
    assert stage.said("WATCHDOG") == []
    stage.boot()
    stage.turn()
    assert stage.said("READY", "WATCHDOG") == ["READY", "WATCHDOG"]
    now = time.monotonic()
    assert now < stage.arbiter.herald.next_ping <= now + 1
    stage.arbiter.herald.next_ping = now
    stage.turn()
    assert stage.said("WATCHDOG") == ["WATCHDOG"]
    stage.kernel.refusal = OSError(errno.EAGAIN, "not now")
    for worker in stage.workers():
        worker.tmp.promise(time.monotonic() - 1)
    stage.turn()
    stage.arbiter.herald.next_ping = time.monotonic()
    stage.turn()
    assert stage.said("WATCHDOG") == []


# ---- the end


def test_term_drains_and_a_second_one_does_not_wait(stage: Stage) -> None:
    stage.signal(SIGTERM)
    assert len(stage.signals(SIGTERM)) == 3
    heard = stage.heard()
    assert [name for message in heard for name in message if name == "STOPPING"] == ["STOPPING"]
    assert any("EXTEND_TIMEOUT_USEC" in message for message in heard)
    stage.turn()
    assert len(stage.signals(SIGTERM)) == 3  # nobody is told twice
    stage.signal(SIGTERM)
    assert len(stage.signals(SIGQUIT)) == 3
    for worker in stage.workers():
        stage.die(worker)
    with pytest.raises(HaltServer, match="stopped") as caught:
        stage.turn()
    stage.heard()
    assert stage.arbiter.halt(caught.value.reason) == ExitCode.CLEAN
    assert stage.heard()[-1] == {"STATUS": "stopped"}
    assert stage.said("STOPPING", "READY") == []


@pytest.mark.parametrize("signum", [SIGINT, SIGQUIT])
def test_int_and_quit_do_not_wait(stage: Stage, signum: Signals) -> None:
    stage.signal(signum)
    assert len(stage.signals(SIGQUIT)) == 3
    assert stage.signals(SIGTERM) == []


def test_a_stop_during_a_reload_concludes_it_first(stage: Stage) -> None:
    stage.signal(SIGHUP)
    stage.signal(SIGTERM)
    assert stage.said("RELOADING", "READY", "STOPPING") == ["RELOADING", "READY", "STOPPING"]
    assert len(stage.signals(SIGTERM)) == 4


def test_nothing_but_the_end_happens_during_a_stop(stage: Stage) -> None:
    stage.signal(SIGTERM)
    stage.signal(SIGHUP, SIGTTIN, SIGTTOU, SIGWINCH, SIGUSR1)
    assert len(stage.workers()) == 3
    assert stage.pool.want == 0
    assert stage.said("READY", "RELOADING") == []


def test_run_returns_the_exit_status(make: MakeStage, tmp_path: Path) -> None:
    pidfile = tmp_path / "shop.pid"
    stage = make(pidfile=str(pidfile))
    stage.obey()
    stage.arbiter.signal(SIGTERM)
    assert stage.arbiter.run() == 0
    assert not pidfile.exists()
    assert stage.said("READY", "STOPPING") == ["STOPPING"]


def test_run_ends_the_workers_when_the_start_fails(make: MakeStage) -> None:
    stage = make()
    stage.obey()
    fork, forks = stage.kernel.fork, iter(range(9))

    def second_one_dies(run: Callable[[], int]) -> int:
        pid = fork(run)
        if next(forks) == 1:
            stage.kernel.exits.append(Exit(pid, status=4))
            stage.arbiter.wakeup()
        return pid

    stage.kernel.fork = second_one_dies  # type: ignore[method-assign]
    assert stage.arbiter.run() == ExitCode.APP_LOAD_ERROR
    assert len(stage.signals(SIGQUIT)) == 2
    last = stage.heard()[-1]
    assert (last["ERRNO"], "STATUS" in last) == (str(errno.EINVAL), True)
