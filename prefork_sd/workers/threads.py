"""The `threads` worker: the same loop, and a pool of threads that call the app."""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from math import inf
from queue import SimpleQueue
from types import FrameType

from prefork_sd.scoreboard import HUNG
from prefork_sd.workers.connection import Connection, Phase, Request
from prefork_sd.workers.loop import LoopWorker

Job = tuple[Connection, Request | None]

NAME = "prefork-sd-"  # and a number: what our threads are called
DEEPEST = 100  # frames of one thread in evidence, the innermost


class ThreadsWorker(LoopWorker):
    """For apps that wait: `threads` requests at a time, first come, first served."""

    multithread = True

    def prepare(self) -> None:
        self.jobs: SimpleQueue[tuple[Connection, Request | None, int] | None] = SimpleQueue()
        self.waiting: deque[Job] = deque()
        self.done: deque[tuple[Connection, int]] = deque()
        self.lanes = list(range(self.cfg.threads - 1, -1, -1))
        self.begun: dict[int, float] = {}  # lane: since when it runs the app
        self.doing: dict[str, Connection] = {}  # thread's name: whose request it answers
        self.hung = False
        # requests that may wait for a thread before this worker leaves new clients to others
        self.patient = inf if self.cfg.workers == 1 else self.cfg.threads
        super().prepare()
        for number in range(self.cfg.threads):
            name = f"{NAME}{number + 1}"
            threading.Thread(target=self.work, name=name, daemon=True).start()

    def work(self) -> None:
        """A thread's life."""
        name = threading.current_thread().name
        while job := self.jobs.get():
            connection, request, lane = job
            self.doing[name] = connection
            if request is not None:
                self.call_app(connection, request, lane)
            else:
                self.call_again(connection, lane)
            del self.doing[name]
            self.done.append((connection, lane))
            self.signals.wake()

    def execute(self, connection: Connection, request: Request) -> None:
        connection.phase = Phase.RUNNING
        self.submit(connection, request)

    def produce(self, connection: Connection) -> None:
        connection.phase = Phase.RUNNING
        self.submit(connection, None)

    def submit(self, connection: Connection, request: Request | None) -> None:
        if self.lanes:
            lane = self.lanes.pop()
            self.begun[lane] = time.monotonic()
            self.jobs.put((connection, request, lane))
        else:
            self.waiting.append((connection, request))
            if len(self.waiting) >= self.patient:
                self.stop_accepting()  # others may have a thread to spare

    def on_wake(self) -> None:
        """Take back what the threads have finished, and hand out what waited for them."""
        super().on_wake()
        while self.done:
            connection, lane = self.done.popleft()
            self.lanes.append(lane)
            del self.begun[lane]
            if self.waiting:
                self.submit(*self.waiting.popleft())
            room = len(self.waiting) < self.patient
            if room and self.alive and not self.accepting and self.accept_again == inf:
                self.start_accepting()
            self.advance(connection)
            if connection.phase is Phase.HEAD:
                self.serve(connection)

    def turn(self) -> bool:
        self.look_for_hung()
        return super().turn() and not (self.hung and self.only_hung_left())

    def next_event(self) -> float:
        now = time.monotonic()
        limits = [since + self.allowance for since in self.begun.values()]
        return min(super().next_event(), min((one for one in limits if one > now), default=inf))

    def only_hung_left(self) -> bool:
        """Whether nobody waits for an answer but those whose request hangs."""
        now = time.monotonic()
        hung = [since for since in self.begun.values() if since + self.allowance <= now]
        return len(self.connections) <= len(hung)

    def look_for_hung(self) -> None:
        """A request past its deadline: leave evidence and drain, so that its siblings finish."""
        oldest = min(self.begun.values(), default=inf)
        if not self.hung and oldest + self.allowance <= time.monotonic():
            self.hung = True
            self.words.write("\n".join(self.stacks()))
            self.tmp.raise_flag(HUNG)
            self.alive = False
            self.signals.wake()  # the drain begins in this turn

    def stacks(self) -> Iterator[str]:
        """Where each thread is that runs code of the app, as faulthandler says it, but by name."""
        frames = sys._current_frames()
        for thread in threading.enumerate():
            connection = self.doing.get(thread.name)
            ours = thread.name.startswith(NAME) or thread is threading.current_thread()
            frame = frames.get(thread.ident or 0)
            if frame is None or (ours and connection is None):
                continue
            request = connection.request if connection else None
            doing = f" with {request.method} {request.path}" if request else ""
            yield f"Thread {thread.name}{doing} (most recent call first):"
            yield from places(frame)


def places(frame: FrameType | None) -> Iterator[str]:
    """The innermost frames, innermost first, written as faulthandler writes them."""
    for _ in range(DEEPEST):
        if frame is None:
            return
        code = frame.f_code
        yield f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}'
        frame = frame.f_back
