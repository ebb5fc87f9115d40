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
from prefork_sd.workers.connection import HEAD, RUNNING, Connection, Request
from prefork_sd.workers.loop import LoopWorker

GRACE = 0.02  # seconds that a full worker leaves to the others for taking a client from it

Job = tuple[Connection, Request | None]

NAME = "prefork-sd-"  # and a number: what our threads are called
DEEPEST = 100  # frames of one thread in evidence, the innermost


class ThreadsWorker(LoopWorker):
    """For apps that wait: `threads` requests at a time, first come, first served.

    A response is made by one thread from its beginning to its end, as what the app uses may not be
    handed to another (connections to databases, thread-locals).
    """

    multithread = True

    def prepare(self) -> None:
        lanes = range(self.cfg.threads)
        self.jobs: list[SimpleQueue[Job | None]] = [SimpleQueue() for _ in lanes]  # of each thread
        self.waiting: deque[Job] = deque()  # new requests, for any thread
        self.going_on: list[deque[Job]] = [deque() for _ in lanes]  # what each has begun
        self.resumed = [False for _ in lanes]  # whether it goes on with something it had begun
        self.homes: dict[Connection, int] = {}  # the thread of each response that is not all made
        self.done: deque[tuple[Connection, int]] = deque()
        self.lanes = [*reversed(lanes)]  # the threads that have nothing to do
        self.begun: dict[int, float] = {}  # lane: since when it runs the app
        self.doing: dict[str, Connection] = {}  # thread's name: whose request it answers
        self.hung = False
        self.full = False  # new clients are left to the others for a moment
        # requests that may wait for a thread before this worker leaves new clients to others
        self.patient = inf if self.cfg.workers == 1 else self.cfg.threads
        super().prepare()
        for lane in lanes:
            name = f"{NAME}{lane + 1}"
            threading.Thread(target=self.work, args=[lane], name=name, daemon=True).start()

    def work(self, lane: int) -> None:
        """A thread's life."""
        name = threading.current_thread().name
        while job := self.jobs[lane].get():
            connection, request = job
            self.doing[name] = connection
            if request is not None:
                request.started = time.monotonic()
                self.call_app(connection, request, lane)
            else:
                self.call_again(connection, lane)
            del self.doing[name]
            self.done.append((connection, lane))
            self.signals.wake()
            del job, connection, request  # nothing of them is kept until the next one comes

    def execute(self, connection: Connection, request: Request) -> None:
        connection.phase = RUNNING
        self.submit(connection, request)

    def produce(self, connection: Connection) -> None:
        connection.phase = RUNNING
        self.submit(connection, None)

    def drop(self, connection: Connection) -> None:
        """As ever, but what is not all made yet is closed by the thread that has begun it."""
        response = connection.response
        if connection not in self.homes or response is None:
            super().drop(connection)
            return
        response.abandon()
        self.unwatch(connection)
        self.produce(connection)

    def submit(self, connection: Connection, request: Request | None) -> None:
        lane = self.homes.get(connection)
        if lane is not None:
            if lane in self.lanes:
                self.lanes.remove(lane)
                self.begin(lane, (connection, request))
            else:
                self.going_on[lane].append((connection, request))
        elif self.lanes:
            self.begin(self.lanes.pop(), (connection, request))
        else:
            self.waiting.append((connection, request))
            if len(self.waiting) >= self.patient and self.accepting:
                self.full = True  # others may have a thread to spare; if not, it is our turn again
                self.stop_accepting()
                self.accept_again = time.monotonic() + GRACE

    def begin(self, lane: int, job: Job) -> None:
        self.begun[lane] = time.monotonic()
        self.resumed[lane] = job[1] is None
        self.jobs[lane].put(job)

    def next_job(self, lane: int) -> None:
        """Give a thread something else to do: in turns what it has begun, and what is new."""
        own, new = self.going_on[lane], self.waiting
        if jobs := (new or own) if self.resumed[lane] else (own or new):
            self.begin(lane, jobs.popleft())
        else:
            del self.begun[lane]
            self.lanes.append(lane)

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
            self.settle(connection, lane)
            self.next_job(lane)
            if self.full and self.alive and len(self.waiting) < self.patient:
                self.start_accepting()
            self.advance(connection)
            if connection.phase is HEAD:
                self.serve(connection)

    def settle(self, connection: Connection, lane: int) -> None:
        """Remember who has to go on with it, if there is more to come."""
        response = connection.response
        if response is not None and not response.done:
            self.homes[connection] = lane
        else:
            self.homes.pop(connection, None)

    def turn(self) -> bool:
        self.look_for_hung()
        return super().turn() and not (self.hung and self.only_hung_left())

    def next_event(self) -> float:
        now = time.monotonic()
        limits = [since + self.allowance for since in self.begun.values()]
        ahead = [one for one in limits if one > now or not self.hung]
        return min(super().next_event(), min(ahead, default=inf))

    def only_hung_left(self) -> bool:
        """Whether nobody waits for an answer but those whose request hangs."""
        now = time.monotonic()
        hung = [lane for lane, since in self.begun.items() if since + self.allowance <= now]
        return len(self.connections) <= len(hung) + sum(len(self.going_on[lane]) for lane in hung)

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
