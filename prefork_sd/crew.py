"""The workers of a service: spawn, observe, reap, murder. What should happen is the pool's."""

import dataclasses
import logging
import os
import select
import signal
import time
from math import ceil
from signal import Signals

from prefork_sd import journal
from prefork_sd.control import ControlServer
from prefork_sd.errors import HookError
from prefork_sd.herald import Herald
from prefork_sd.hooks import Hooks
from prefork_sd.journal import Event
from prefork_sd.listeners import Listener
from prefork_sd.obituary import Obituary, obituary
from prefork_sd.pool import Kill, Pool, Spawn, State
from prefork_sd.process import Exit, Processes
from prefork_sd.release import Release
from prefork_sd.scoreboard import LastWords, Scoreboard
from prefork_sd.signals import SignalQueue
from prefork_sd.workers.base import Worker

HALT_GRACE = 2.0  # seconds for the workers to go when the server halts


class Crew:
    """Carries out what the pool decides, and tells the pool what it sees. Nothing here waits."""

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
        self.control: ControlServer | None = None
        self.releases: dict[int, Release] = {}
        self.reasons: dict[int, str] = {}  # why a worker was last sent a signal
        self.stopping = False

    def boot_failed(self, generation: int, notice: Obituary, status: int) -> None:
        raise NotImplementedError

    def became_ready(self, worker: Worker) -> None:
        raise NotImplementedError

    def reap_workers(self) -> None:
        """Take note of every child that ended. One that is not ours is reaped, never counted."""
        for exit in self.processes.reap():
            if exit.continued:
                self.pool.continued(exit.pid)
            elif exit.stopped:
                self.pool.stopped(exit.pid, time.monotonic())
                if exit.pid in self.WORKERS:
                    self.log.warning("worker %d was %s", exit.pid, exit)
            else:
                self.bury(exit)

    def bury(self, exit: Exit) -> None:
        """A child is gone: say how, and draw the consequences."""
        now = time.monotonic()
        worker = self.WORKERS.pop(exit.pid, None)
        if worker is None:
            return
        self.observe(worker, now)  # what it had still said before it died
        child = self.pool.remove(exit.pid, now)
        assert child is not None
        self.processes.kill(exit.pid, signal.SIGKILL, group=True)  # what it left running
        reason = self.reasons.pop(exit.pid, "")
        requests = worker.tmp.in_hand()
        notice = obituary(child, exit, reason, worker.words.read(), requests, now)
        self.log.log(
            notice.level, "%s", notice.message, extra=journal.fields(notice.event, **notice.fields)
        )
        self.scoreboard.give_back(worker.tmp)
        worker.words.close()
        self.hooks.child_exit(self, worker)
        if child.ready_at > now and not child.unwanted:
            self.boot_failed(child.generation, notice, exit.status)

    def observe_workers(self) -> None:
        """Read the scoreboard: who is ready, who drains, who is tired."""
        now = time.monotonic()
        for worker in self.WORKERS.values():
            self.observe(worker, now)

    def observe(self, worker: Worker, now: float) -> None:
        slot = worker.tmp
        became_ready = self.pool.observe(
            worker.pid,
            now,
            booted=slot.booted,
            promise=slot.deadline,
            accepting=not slot.draining,
            tired=slot.tired,
        )
        if became_ready:
            self.became_ready(worker)
        if slot.hung and not worker.mourned:
            worker.mourned = True
            self.mourn(worker, now)

    def mourn(self, worker: Worker, now: float) -> None:
        """A threaded worker with a hung request drains: put its evidence on record now."""
        child = self.pool.children[worker.pid]
        ended = Exit(worker.pid, signal=signal.SIGABRT)
        child = dataclasses.replace(child, state=State.ABORTED)
        reason = "has a request that takes too long"
        requests = worker.tmp.in_hand()
        notice = obituary(child, ended, reason, worker.words.read(), requests, now)
        text = notice.message.replace("and was killed", "and drains", 1)
        self.log.log(notice.level, "%s", text, extra=journal.fields(notice.event, **notice.fields))

    def murder_workers(self) -> None:
        """Deal with the workers that are late; feed the watchdog if we can serve."""
        now = time.monotonic()
        for kill in list(self.pool.late(now)):
            self.kill_worker(kill)
        if now >= self.herald.next_ping and self.pool.can_serve(now):
            self.herald.ping(now)
        elif now >= self.herald.next_ping:
            self.herald.next_ping = now + 1.0  # nothing can be served: look again soon

    def manage_workers(self) -> None:
        """Carry out the pool's plan."""
        for step in list(self.pool.plan(time.monotonic())):
            if isinstance(step, Kill):
                self.kill_worker(step)
            else:
                self.spawn_worker(step)

    def spawn_worker(self, spawn: Spawn) -> int:
        """Fork one worker of that generation; return its pid, or 0 if a hook refused."""
        release = self.releases[spawn.generation]
        self.worker_age += 1
        worker = release.worker_class(
            self.worker_age,
            self.pid,
            self.sockets,
            release.app,
            release.cfg.timeout,
            release.cfg,
            self.log,
        )
        worker.generation, worker.hooks, worker.server = spawn.generation, release.hooks, self
        worker.tmp, worker.words = self.scoreboard.take(), LastWords()
        worker.wake_fd = self.SIG_QUEUE.write_fd
        now = time.monotonic()
        try:
            release.hooks.pre_fork(self, worker)
            worker.pid = self.processes.fork(lambda: self.be_worker(worker))
        except (HookError, OSError) as error:
            self.scoreboard.give_back(worker.tmp)
            worker.words.close()
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

    def be_worker(self, worker: Worker) -> int:
        """The child's first steps: let go of what is the arbiter's."""
        if self.control:
            self.control.close_in_child()
        for other in self.WORKERS.values():
            other.words.close()
        self.SIG_QUEUE.close_reading()
        return worker.init_process()

    def spawn_workers(self) -> None:
        """Start the workers that are missing."""
        self.manage_workers()

    def kill_worker(self, kill: Kill) -> None:
        """Send a signal to a worker and remember why."""
        now = time.monotonic()
        self.reasons[kill.pid] = kill.reason
        final = kill.signal == signal.SIGKILL
        self.pool.killed(kill, now)
        self.processes.kill(kill.pid, kill.signal, group=final)
        if kill.signal == signal.SIGABRT:  # a stopped one shall hear it, too
            self.processes.kill(kill.pid, signal.SIGCONT)
        self.log.debug("%s to worker %d: %s", kill.signal.name, kill.pid, kill.reason)

    def kill_workers(self, signum: Signals, reason: str) -> None:
        """Send a signal to every worker."""
        for pid in list(self.WORKERS):
            self.kill_worker(Kill(pid, signum, reason))

    def end_workers(self) -> None:
        """End what is left of them, within HALT_GRACE."""
        deadline = time.monotonic() + HALT_GRACE
        self.kill_workers(signal.SIGQUIT, "the server halts")
        while self.WORKERS:
            for exit in self.processes.reap():
                self.WORKERS.pop(exit.pid, None)
            left = deadline - time.monotonic()
            if left <= 0:
                for pid in self.WORKERS:
                    self.processes.kill(pid, signal.SIGKILL, group=True)
                return
            poll = select.poll()
            poll.register(self.SIG_QUEUE.fileno(), select.POLLIN)
            poll.poll(ceil(left * 1000))
            list(self.SIG_QUEUE.take())
