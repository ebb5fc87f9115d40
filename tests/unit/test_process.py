"""The door to processes, with real ones: how they end is told by the kernel."""

import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from signal import SIGABRT, SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1
from typing import NoReturn

import pytest

from prefork_sd import process
from prefork_sd.errors import AppImportError, ExitCode, PreforkError
from prefork_sd.process import Exit, Processes

PATIENCE = 10.0


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], PATIENCE)[0])


@contextmanager
def child(run: Callable[[], int]) -> Iterator[int]:
    """A child, of which nothing is left afterwards."""
    pid = Processes().fork(run)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.killpg(pid, SIGKILL)
            os.waitpid(pid, 0)


def waits() -> int:
    signal.pause()
    return 0


def reaped(pid: int) -> Exit:
    """The next thing that happens to the child, once the kernel has it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOWAIT)
    [found] = [exit for exit in Processes().reap() if exit.pid == pid]
    return found


def raises(error: BaseException) -> Callable[[], int]:
    def run() -> NoReturn:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (lambda: 0, 0),
        (lambda: 7, 7),
        (lambda: ExitCode.CONFIG, 78),
        (raises(ValueError("on purpose")), ExitCode.WORKER_BOOT_ERROR),
        (raises(AppImportError("no app")), ExitCode.APP_LOAD_ERROR),
        (raises(KeyboardInterrupt()), ExitCode.WORKER_BOOT_ERROR),
        (raises(SystemExit(5)), 5),
        (raises(SystemExit()), 0),
        (raises(SystemExit("a text")), 1),
        (raises(SystemExit(2**40 + 9)), 9),
    ],
)
def test_a_child_exits_with_what_it_returns_and_never_returns(
    run: Callable[[], int], status: int
) -> None:
    with child(run) as pid:
        assert reaped(pid) == Exit(pid, status=status)


def test_how_a_killed_child_ended() -> None:
    with child(waits) as pid:
        Processes().kill(pid, SIGKILL)
        exit = reaped(pid)
        assert (exit.signal, exit.status, str(exit)) == (SIGKILL, 0, "was killed by SIGKILL")


def test_a_stopped_and_a_continued_child() -> None:
    with child(waits) as pid:
        Processes().kill(pid, SIGSTOP)
        stopped = reaped(pid)
        assert (stopped.stopped, str(stopped)) == (True, "stopped by SIGSTOP")
        Processes().kill(pid, SIGCONT)
        assert reaped(pid).continued
        Processes().kill(pid, SIGTERM)
        assert reaped(pid).signal == SIGTERM


def test_many_children_are_reaped_at_once_and_none_is_waited_for() -> None:
    with child(waits) as alive:
        pids = {Processes().fork(lambda: 0) for _ in range(5)}
        for pid in pids:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert {exit.pid for exit in Processes().reap()} >= pids
        assert alive not in {exit.pid for exit in Processes().reap()}


def test_without_children_there_is_nothing_to_reap() -> None:
    def run() -> int:
        return len(list(Processes().reap()))

    with child(run) as pid:
        assert reaped(pid).status == 0


def test_a_gone_child_is_no_error() -> None:
    with child(lambda: 0) as pid:
        reaped(pid)
        Processes().kill(pid, SIGTERM)
        Processes().kill(pid, SIGKILL, group=True)


def test_a_group_has_all_that_a_child_has_left() -> None:
    """A grandchild holds the pipe: when that ends, it is gone."""
    reader, writer = os.pipe()

    def run() -> int:
        os.close(reader)
        if os.fork() == 0:
            signal.pause()
        return 0

    with child(run) as pid:
        os.close(writer)
        assert reaped(pid).status == 0
        assert not select.select([reader], [], [], 0)[0]
        Processes().kill(pid, SIGKILL, group=True)
        assert readable(reader)
        assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_fork_that_fails_leaves_signals_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fork() -> int:
        raise BlockingIOError(11, "not now")

    monkeypatch.setattr(os, "fork", no_fork)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(OSError, match="not now"):
        Processes().fork(lambda: 0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_child_dies_with_its_parent() -> None:
    reader, writer = os.pipe()

    def run() -> int:
        here = os.getpid()
        os.close(reader)

        def grandchild() -> int:
            process.die_with_parent(here, SIGKILL)
            os.write(writer, b".")
            return waits()

        Processes().fork(grandchild)
        return waits()

    with child(run) as pid:
        os.close(writer)
        assert readable(reader)
        assert os.read(reader, 1) == b"."
        Processes().kill(pid, SIGKILL)
        assert readable(reader)
        assert os.read(reader, 1) == b""  # nobody holds it any more
    os.close(reader)


def test_a_child_whose_parent_has_gone_already_hears_it_at_once() -> None:
    def run() -> int:
        process.die_with_parent(os.getppid() + 1, SIGTERM)
        return 0

    with child(run) as pid:
        assert reaped(pid).signal == SIGTERM


def test_an_orphan_is_handed_to_the_subreaper_before_it_runs() -> None:
    def run() -> int:
        process.become_subreaper()
        here = os.getpid()

        def middle() -> int:
            process.fork_orphan(lambda: 42 if os.getppid() == here else 1)
            return 0

        statuses = {os.waitstatus_to_exitcode(os.wait()[1]) for _ in [Processes().fork(middle), 0]}
        return 0 if statuses == {0, 42} else 1

    with child(run) as pid:
        assert reaped(pid).status == 0


def test_become_nobody_else_is_no_work() -> None:
    process.become("", "")
    process.become(str(os.geteuid()), str(os.getegid()))


def test_become_somebody_who_is_not_there() -> None:
    with pytest.raises(PreforkError, match=r"^user: there is no no-such-user$"):
        process.become("no-such-user", "")
    with pytest.raises(PreforkError, match=r"^group: there is no no-such-group$"):
        process.become(str(os.geteuid()), "no-such-group")


@pytest.mark.parametrize(
    ("exit", "text"),
    [
        (Exit(1, status=3), "exited with status 3"),
        (Exit(1, signal=SIGABRT, core=True), "was killed by SIGABRT (core dumped)"),
        (Exit(1, signal=SIGUSR1, stopped=True), "stopped by SIGUSR1"),
        (Exit(1, signal=50), "was killed by signal 50"),
    ],
)
def test_an_end_in_words(exit: Exit, text: str) -> None:
    assert str(exit) == text


# ---- open files


def limits_after(soft: int, hard: int, wanted: int) -> tuple[int, int]:
    """What a child with these limits may open once it has asked for `wanted` files."""
    read, write = os.pipe()

    def run() -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        process.allow_files(wanted)
        os.write(write, "{} {}".format(*resource.getrlimit(resource.RLIMIT_NOFILE)).encode())
        return 0

    with child(run):
        os.close(write)
        assert readable(read)
        found = os.read(read, 100).split()
        os.close(read)
    return int(found[0]), int(found[1])


@pytest.mark.parametrize(
    ("wanted", "soft"), [(300, 300), (100, 200), (400, 400), (5000, 400)], ids=str
)
def test_files_are_allowed_up_to_the_hard_limit(wanted: int, soft: int) -> None:
    assert limits_after(200, 400, wanted) == (soft, 400)
