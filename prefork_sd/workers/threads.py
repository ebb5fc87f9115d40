"""The `threads` worker: the same loop, and a pool of threads that call the app."""

import faulthandler
import threading
import time
from collections import deque
from math import inf
from queue import SimpleQueue

from prefork_sd.scoreboard import HUNG
from prefork_sd.workers.connection import HEAD, RUNNING, Connection, Request
from prefork_sd.workers.loop import LoopWorker

GRACE = 0.02  # seconds that a full worker leaves to the others for taking a client from it

Job = tuple[Connection, Request | None]


class ThreadsWorker(LoopWorker):
    """For apps that wait: `threads` requests at a time, first come, first served."""

    multithread = True

    def prepare(self) -> None:
        self.jobs: SimpleQueue[tuple[Connection, Request | None, int] | None] = SimpleQueue()
        self.waiting: deque[Job] = deque()
        self.done: deque[tuple[Connection, int]] = deque()
        self.lanes = list(range(self.cfg.threads - 1, -1, -1))
        self.begun: dict[int, float] = {}  # lane: since when it runs the app
        self.hung = False
        self.full = False  # new clients are left to the others for a moment
        # requests that may wait for a thread before this worker leaves new clients to others
        self.patient = inf if self.cfg.workers == 1 else self.cfg.threads
        super().prepare()
        for number in range(self.cfg.threads):
            name = f"prefork-sd-{number + 1}"
            threading.Thread(target=self.work, name=name, daemon=True).start()

    def work(self) -> None:
        """A thread's life."""
        while job := self.jobs.get():
            connection, request, lane = job
            if request is not None:
                request.started = time.monotonic()
                self.call_app(connection, request, lane)
            else:
                self.call_again(connection, lane)
            self.done.append((connection, lane))
            self.signals.wake()

    def execute(self, connection: Connection, request: Request) -> None:
        connection.phase = RUNNING
        self.submit(connection, request)

    def produce(self, connection: Connection) -> None:
        connection.phase = RUNNING
        self.submit(connection, None)

    def submit(self, connection: Connection, request: Request | None) -> None:
        if self.lanes:
            lane = self.lanes.pop()
            self.begun[lane] = time.monotonic()
            self.jobs.put((connection, request, lane))
        else:
            self.waiting.append((connection, request))
            if len(self.waiting) >= self.patient and self.accepting:
                self.full = True  # others may have a thread to spare; if not, it is our turn again
                self.stop_accepting()
                self.accept_again = time.monotonic() + GRACE

    def start_accepting(self) -> None:
        self.full = False
        if len(self.connections) < self.cfg.worker_connections:
            super().start_accepting()
        else:
            self.accept_again = inf  # when one of them is gone

    def on_wake(self) -> None:
        """Take back what the threads have finished, and hand out what waited for them."""
        super().on_wake()
        while self.done:
            connection, lane = self.done.popleft()
            self.lanes.append(lane)
            del self.begun[lane]
            if self.waiting:
                self.submit(*self.waiting.popleft())
            if self.full and self.alive and len(self.waiting) < self.patient:
                self.start_accepting()
            self.advance(connection)
            if connection.phase is HEAD:
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
            faulthandler.dump_traceback(self.words.fd, all_threads=True)
            self.tmp.raise_flag(HUNG)
            self.alive = False
            self.signals.wake()  # the drain begins in this turn
