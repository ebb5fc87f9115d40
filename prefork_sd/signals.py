"""The signal queue: a handler only appends to it, and a byte in a pipe wakes whoever waits."""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from signal import Signals
from types import FrameType


class SignalQueue:
    """Signals in the order they came, and the pipe that wakes the one place that waits.

    `fileno()` becomes readable when a signal came, or when somebody who has `write_fd` wrote a
    byte: the workers inherit it and tell the arbiter in that way to look at the scoreboard.
    """

    def __init__(self) -> None:
        self._queue: deque[Signals] = deque()
        self._read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def install(self, signals: Iterable[Signals]) -> None:
        """Queue these signals from now on, in this process's main thread."""
        signal.set_wakeup_fd(self.write_fd, warn_on_full_buffer=False)
        for signum in signals:
            signal.signal(signum, self.put)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a re-exec has held them back

    def adopt(self, read_fd: int, write_fd: int) -> None:
        """Go on with the pipe of the image before a re-exec, which the workers write to."""
        os.close(self._read_fd)
        os.close(self.write_fd)
        self._read_fd, self.write_fd = read_fd, write_fd

    def put(self, signum: int, frame: FrameType | None = None) -> None:
        """The handler of every signal: no log, no lock."""
        self._queue.append(Signals(signum))

    def fileno(self) -> int:
        return self._read_fd

    def wake(self) -> None:
        """Make `fileno()` readable; a full pipe is readable already."""
        with suppress(BlockingIOError):
            os.write(self.write_fd, b".")

    def take(self) -> Iterator[Signals]:
        """Empty the pipe first: a signal which lands after that wakes us again."""
        with suppress(BlockingIOError):
            while len(os.read(self._read_fd, 4096)) == 4096:
                pass
        while self._queue:
            yield self._queue.popleft()

    def close_reading(self) -> None:
        """In a child, which only writes."""
        os.close(self._read_fd)


@contextmanager
def blocked() -> Iterator[None]:
    """Hold every signal back in this thread, so that none lands between fork and its parts."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def forget(unblock: bool = True) -> None:
    """In a child: default dispositions, no wake-up fd, and then no signal held back."""
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals():
        if signum in (signal.SIGKILL, signal.SIGSTOP) or signum >= signal.SIGRTMIN:
            continue
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    if unblock:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
