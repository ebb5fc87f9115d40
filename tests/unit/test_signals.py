"""Real signals, sent to this very process, and a child that must not keep what it inherits."""

import os
import select
import signal
from collections.abc import Iterator
from signal import SIGHUP, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2

import pytest

from prefork_sd import signals
from prefork_sd.process import Processes
from prefork_sd.signals import SignalQueue

USED = (SIGHUP, SIGTERM, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU)


@pytest.fixture
def queue() -> Iterator[SignalQueue]:
    before = {signum: signal.getsignal(signum) for signum in USED}
    queue = SignalQueue()
    queue.install(USED)
    yield queue
    signal.set_wakeup_fd(-1)
    for signum, handler in before.items():
        signal.signal(signum, handler)
    os.close(queue.fileno())
    os.close(queue.write_fd)


def awake(queue: SignalQueue) -> bool:
    return bool(select.select([queue.fileno()], [], [], 0)[0])


def test_signals_come_in_their_order_and_wake_the_loop(queue: SignalQueue) -> None:
    assert not awake(queue)
    for signum in (SIGTTIN, SIGHUP, SIGTTOU, SIGTTIN):
        os.kill(os.getpid(), signum)
    assert awake(queue)
    assert list(queue.take()) == [SIGTTIN, SIGHUP, SIGTTOU, SIGTTIN]
    assert not awake(queue)
    assert list(queue.take()) == []


def test_a_signal_that_lands_while_the_queue_is_read_is_not_lost(queue: SignalQueue) -> None:
    os.kill(os.getpid(), SIGHUP)
    taken = []
    for signum in queue.take():
        taken.append(signum)
        if len(taken) == 1:
            os.kill(os.getpid(), SIGUSR1)
    assert taken == [SIGHUP, SIGUSR1]
    assert awake(queue)  # once too often, which costs a turn; never once too seldom


def test_a_signal_that_lands_after_the_queue_was_read_wakes_the_loop(queue: SignalQueue) -> None:
    list(queue.take())
    os.kill(os.getpid(), SIGHUP)
    assert awake(queue)


def test_a_full_pipe_loses_no_signal_and_wakes(queue: SignalQueue) -> None:
    for _ in range(70_000):
        queue.wake()
    os.kill(os.getpid(), SIGHUP)
    assert list(queue.take()) == [SIGHUP]
    assert not awake(queue)


def test_another_process_wakes_the_loop_by_a_byte(queue: SignalQueue) -> None:
    def live() -> int:
        queue.close_reading()
        os.write(queue.write_fd, b".")
        return 0

    os.waitpid(Processes().fork(live), 0)
    assert awake(queue)
    assert list(queue.take()) == []


def test_a_signal_put_by_hand_counts(queue: SignalQueue) -> None:
    queue.put(SIGHUP)
    assert list(queue.take()) == [SIGHUP]


def test_blocked_holds_back_and_lets_go(queue: SignalQueue) -> None:
    with signals.blocked():
        os.kill(os.getpid(), SIGHUP)
        assert list(queue.take()) == []
    assert list(queue.take()) == [SIGHUP]


def test_a_child_has_default_dispositions_and_hears_everything(queue: SignalQueue) -> None:
    def live() -> int:
        defaults = [signal.getsignal(signum) is signal.SIG_DFL for signum in USED]
        nothing_held = not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        no_wakeup = signal.set_wakeup_fd(-1) == -1
        return 0 if all([*defaults, nothing_held, no_wakeup]) else 1

    assert os.waitpid(Processes().fork(live), 0)[1] == 0


def test_a_signal_for_a_child_never_reaches_the_queue_of_its_parent(queue: SignalQueue) -> None:
    ready, say = os.pipe()

    def live() -> int:
        os.write(say, b".")
        signal.pause()
        return 0

    pid = Processes().fork(live)
    os.read(ready, 1)
    os.kill(pid, SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -SIGTERM
    assert list(queue.take()) == []
    assert not awake(queue)
    os.close(ready)
    os.close(say)


def test_a_queue_goes_on_with_the_pipe_of_another(queue: SignalQueue) -> None:
    heir = SignalQueue()
    heir.adopt(os.dup(queue.fileno()), os.dup(queue.write_fd))
    os.write(queue.write_fd, b".")
    assert awake(heir)
    os.close(heir.fileno())
    os.close(heir.write_fd)
