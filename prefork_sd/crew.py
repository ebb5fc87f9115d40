"""The workers of a service, and what is done with them: spawn, murder, kill, end.

What should happen is the pool's. What becomes of them is seen in `lookout`.
"""

import logging
import os
import select
import signal
import time
from contextlib import ExitStack
from functools import partial
from math import ceil
from signal import Signals

from prefork_sd import cgroups, journal
from prefork_sd.cgroups import Groups
from prefork_sd.foundry import Foundry
from prefork_sd.herald import Herald
from prefork_sd.hooks import Hooks
from prefork_sd.journal import Event
from prefork_sd.listeners import Listener
from prefork_sd.mold import Order
from prefork_sd.obituary import Obituary
from prefork_sd.pool import Kill, Pool, Spawn
from prefork_sd.process import Processes
from prefork_sd.release import Release
from prefork_sd.scoreboard import LastWords, Scoreboard, Served, Slot
from prefork_sd.signals import SignalQueue
from prefork_sd.tally import Tally
from prefork_sd.workers.base import Worker

HALT_GRACE = 2.0  # seconds for the workers to go when the server halts


class Crew:
    """Carries out what the pool decides. Nothing here waits but `end_workers`."""

    def __init__(self, log: logging.Logger, processes: Processes) -> None:
        self.log = log
        self.processes = processes
        self.pid = os.getpid()
        self.WORKERS: dict[int, Worker] = {}
        self.worker_age = 0
        self.pool = Pool()
        self.scoreboard = Scoreboard()
        self.SIG_QUEUE = SignalQueue()
        self.herald = Herald(os.environ, self.pid)
        self.hooks = Hooks()
        self.sockets: list[Listener] = []
        self.releases: dict[int, Release] = {}
        self.reasons: dict[int, str] = {}  # why a worker was last sent a signal
        self.stopping = False
        self.tally = Tally()
        self.groups = Groups()
        self.foundry = Foundry(processes, self)

    @property
    def wake_fd(self) -> int:
        """A byte in it ends our sleep."""
        return self.SIG_QUEUE.write_fd

    def boot_failed(self, generation: int, notice: Obituary, status: int) -> None:
        raise NotImplementedError

    def close_doors(self) -> None:
        """In a child: let go of the sockets for others."""

    def murder_workers(self) -> None:
        """Deal with the workers that are late; feed the watchdog if we can serve."""
        now = time.monotonic()
        for kill in list(self.pool.late(now)):
            self.kill_worker(kill)
        self.herald.prosper(now, well=self.pool.can_serve(now))
        if now >= self.herald.next_ping and self.pool.can_serve(now):
            served = self.served()
            busy = sum(bool(worker.tmp.in_hand()) for worker in self.WORKERS.values())
            self.tally.look(served.requests, served.errors, now, busy)
            self.herald.ping(now)
        elif now >= self.herald.next_ping:
            self.herald.next_ping = now + 1.0  # nothing can be served: look again soon

    def served(self) -> Served:
        """What was served since the service began, restarts notwithstanding."""
        living = (worker.tmp.served for worker in self.WORKERS.values())
        return sum(living, self.scoreboard.gone)

    def manage_workers(self) -> None:
        """Carry out the pool's plan."""
        self.foundry.keep(() if self.stopping else (self.pool.serving, self.pool.target))
        for step in list(self.pool.plan(time.monotonic())):
            if isinstance(step, Kill):
                self.kill_worker(step)
            else:
                self.spawn_worker(step)

    def spawn_worker(self, spawn: Spawn) -> int:
        """Fork one worker of that generation, or order it from its mold.

        Return its pid; a negative number until the mold has made it; 0 if it cannot be.
        """
        release = self.releases[spawn.generation]
        self.worker_age += 1
        age, now, undo = self.worker_age, time.monotonic(), ExitStack()
        try:
            slot = self.scoreboard.take()
            undo.callback(self.scoreboard.give_back, slot)
            words = LastWords()
            undo.callback(words.close)
            slot.reserve(age)
            worker = self.make_worker(spawn.generation, age, slot, words)
            release.hooks.pre_fork(self, worker)
            worker.group = self.groups.make(f"{cgroups.WORKER}{age}", release.cfg.worker_memory_max)
            if worker.group is not None:
                undo.callback(self.groups.close, worker.group, by_force=False)
            if release.molded:
                worker.pid = -age
                order = Order(age, slot.index, words.fd)
                self.foundry.order(release, spawn.generation, order, self.leave_arbiter)
            else:
                worker.pid = self.processes.fork(partial(self.be_worker, worker))
        except Exception as error:  # noqa: BLE001 (a class of workers may raise anything)
            undo.close()
            self.fork_failed(spawn, error, now)
            return 0
        self.WORKERS[worker.pid] = worker
        self.pool.add(worker.pid, worker.age, spawn.generation, now, release.cfg.boot_timeout)
        if not self.pool.settled():
            self.herald.extend(release.cfg.boot_timeout + release.cfg.graceful_timeout + 10, now)
        return worker.pid

    def fork_failed(self, spawn: Spawn, error: Exception, now: float) -> None:
        """No worker could be made: that is a boot that failed."""
        self.pool.fork_failed(spawn, now)
        event = Event.WORKER_BOOT_FAILED
        notice = Obituary(logging.ERROR, event, f"cannot start a worker: {error}")
        self.log.error("%s", notice.text, extra=journal.fields(event))
        self.boot_failed(spawn.generation, notice, 0)
        self.SIG_QUEUE.wake()  # what follows from it is planned in the next turn

    def make_worker(self, generation: int, age: int, slot: Slot, words: LastWords) -> Worker:
        return self.releases[generation].worker(self, generation, age, slot, words)

    def leave_arbiter(self) -> None:
        """In a child: let go of what is the arbiter's."""
        self.close_doors()
        self.herald.close()
        for other in self.WORKERS.values():
            other.words.close()
        self.SIG_QUEUE.close_reading()

    def be_worker(self, worker: Worker) -> int:
        """In a child: live."""
        self.leave_arbiter()
        return worker.init_process()

    def spawn_workers(self) -> None:
        """Start the workers that are missing."""
        self.manage_workers()

    def kill_worker(self, kill: Kill) -> None:
        """Send a signal to a worker and remember why."""
        now = time.monotonic()
        if kill.signal != signal.SIGKILL or kill.pid not in self.reasons:
            self.reasons[kill.pid] = kill.reason  # what it was aborted for says more
        self.pool.killed(kill, now)
        pid = kill.pid
        if pid < 0:  # ordered, but not made yet: only its mold can be blamed
            forced = kill.signal in (signal.SIGABRT, signal.SIGKILL)
            pid = self.foundry.pid_of(self.WORKERS[pid].generation) if forced else 0
        if pid:
            self.processes.kill(pid, kill.signal, group=kill.signal == signal.SIGKILL)
        if pid and kill.signal == signal.SIGABRT:  # a stopped one shall hear it, too
            self.processes.kill(pid, signal.SIGCONT)
        if kill.signal == signal.SIGTERM:
            self.SIG_QUEUE.wake()  # to see whether it is held up
        self.log.debug("%s to worker %d: %s", kill.signal.name, kill.pid, kill.reason)

    def kill_workers(self, signum: Signals, reason: str) -> None:
        """Send a signal to every worker."""
        for pid in list(self.WORKERS):
            self.kill_worker(Kill(pid, signum, reason))

    def end_workers(self) -> None:
        """End what is left of them and of their molds, within HALT_GRACE."""
        deadline = time.monotonic() + HALT_GRACE
        self.kill_workers(signal.SIGQUIT, "the server halts")
        self.foundry.keep(())
        living = {pid for pid in self.WORKERS if pid > 0} | set(self.foundry.pids())
        while living := living - {exit.pid for exit in self.processes.reap() if exit.final}:
            if not living:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                for pid in living:
                    self.processes.kill(pid, signal.SIGKILL, group=True)
                return
            poll = select.poll()
            poll.register(self.SIG_QUEUE.fileno(), select.POLLIN)
            poll.poll(ceil(left * 1000))
            list(self.SIG_QUEUE.take())
