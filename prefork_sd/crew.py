"""The workers of a service: spawn, observe, reap, murder. What should happen is the pool's."""

import dataclasses
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
from prefork_sd.mold import Mold, Order
from prefork_sd.obituary import Obituary, obituary
from prefork_sd.pool import Child, Kill, Pool, Spawn, State
from prefork_sd.process import Exit, Processes
from prefork_sd.release import Release
from prefork_sd.scoreboard import LastWords, Scoreboard, Served, Slot
from prefork_sd.signals import SignalQueue
from prefork_sd.tally import Tally
from prefork_sd.workers.base import Worker

# how a worker ended, as counters of the scoreboard
LEFT, KILLED, HUNG, OOM, BOOT_FAILED = range(5)
RELOADED, RELOAD_FAILED = 8, 9
COUNTED = {
    Event.WORKER_KILLED: KILLED,
    Event.WORKER_HUNG: HUNG,
    Event.WORKER_OOM: OOM,
    Event.WORKER_BOOT_FAILED: BOOT_FAILED,
}
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
        self.releases: dict[int, Release] = {}
        self.reasons: dict[int, str] = {}  # why a worker was last sent a signal
        self.stopping = False
        self.someone_left = False  # a worker accepts no more
        self.tally = Tally()
        self.groups = Groups()
        self.foundry = Foundry(processes, self)

    @property
    def wake_fd(self) -> int:
        """A byte in it ends our sleep."""
        return self.SIG_QUEUE.write_fd

    def boot_failed(self, generation: int, notice: Obituary, status: int) -> None:
        raise NotImplementedError

    def became_ready(self, worker: Worker) -> None:
        raise NotImplementedError

    def close_doors(self) -> None:
        """In a child: let go of the sockets for others."""

    def decides(self, child: Child) -> bool:
        """Whether what follows from that worker's end puts it on record itself."""
        raise NotImplementedError

    def bury_other(self, exit: Exit) -> None:
        """A child that is neither a worker nor a mold has been reaped; it does not count."""

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
        self.welcome_workers()  # it may have died before we knew its pid
        worker = self.WORKERS.pop(exit.pid, None)
        if worker is None:
            if mold := self.foundry.bury(exit.pid):
                self.bury_mold(mold, exit)
            else:
                self.bury_other(exit)
            return
        self.observe(worker, now)  # what it had still said before it died
        self.someone_left = True
        child = self.pool.remove(exit.pid, now)
        assert child is not None
        if child.state is State.ABORTED:
            self.processes.kill(exit.pid, signal.SIGKILL, group=True)  # what it left running
        reason = self.reasons.pop(exit.pid, "")
        requests = worker.tmp.in_hand()
        oom = worker.group is not None and cgroups.oom_kills(worker.group) > 0
        notice = obituary(child, exit, reason, worker.words.read(), requests, now, oom=oom)
        if not self.decides(child):
            self.say(notice)
        if worker.group is not None:
            self.groups.close(worker.group, by_force=child.state is State.ABORTED)
        self.scoreboard.tick(COUNTED.get(notice.event, LEFT))
        self.scoreboard.bury(worker.tmp)
        self.scoreboard.give_back(worker.tmp)
        worker.words.close()
        self.hooks.child_exit(self, worker)
        if child.ready_at > now and not child.unwanted:
            self.boot_failed(child.generation, notice, exit.status)

    def bury_mold(self, mold: Mold, exit: Exit) -> None:
        """Without its mold, what was ordered from it is not going to be."""
        now = time.monotonic()
        superseded = mold.leaving and self.foundry.pid_of(mold.generation)
        ordered = [] if superseded else self.ordered(mold.generation)
        reason = next((self.reasons[one.pid] for one in ordered if one.pid in self.reasons), "")
        failed: tuple[Child, Obituary] | None = None
        for worker in ordered:
            child = self.forget_order(worker, now, failure=failed is None and not mold.leaving)
            if failed is None and not child.unwanted:
                notice = obituary(child, exit, reason, mold.words.read(), [], now)
                if not self.decides(child):
                    self.say(notice)
                failed = child, notice
        if not ordered and not mold.leaving:
            text = "the mold of generation %d %s; another is made when it is needed"
            self.log.warning(text, mold.generation, exit)
        mold.close()
        if failed:
            self.boot_failed(mold.generation, failed[1], exit.status)

    def ordered(self, generation: int) -> list[Worker]:
        """The workers that a mold has still to make."""
        found = [worker for worker in self.WORKERS.values() if worker.pid < 0]
        return [worker for worker in found if worker.generation == generation]

    def forget_order(self, worker: Worker, now: float, *, failure: bool) -> Child:
        """A worker that was ordered will not be; `failure`: that counts as one."""
        del self.WORKERS[worker.pid]
        self.reasons.pop(worker.pid, None)
        self.foundry.made(worker.generation, worker.age)
        worker.tmp.reserve(0)  # should it still be made: nobody waits for it
        self.scoreboard.give_back(worker.tmp)
        worker.words.close()
        child = self.pool.children[worker.pid]
        child.unwanted = child.unwanted or not failure
        self.pool.remove(worker.pid, now)
        return child

    def welcome_workers(self) -> None:
        """Hear the molds, and learn the pids of the workers they have made."""
        for mold in self.foundry.hear():
            if mold.threads:
                self.log.warning(
                    "the app started threads while it was imported (%s): they will not exist in "
                    "the workers; if it needs them, set preload_app: no", ", ".join(mold.threads),
                    extra=journal.fields(Event.CONFIG_WARNING),
                )  # fmt: skip
                mold.threads = []
            release = self.releases.get(mold.generation)
            if mold.python and release and release.cfg.venv:
                text = "generation %d runs under Python %s of %s"
                self.log.info(text, mold.generation, mold.python, release.cfg.venv)
                mold.python = ""
            if mold.origin or mold.unfit:
                self.refork(mold)
            while mold.refused:
                age, why = mold.refused.pop()
                if worker := self.WORKERS.get(-age):
                    now = time.monotonic()
                    self.forget_order(worker, now, failure=False)
                    self.fork_failed(Spawn(mold.generation), OSError(why), now)
        for worker in [one for one in self.WORKERS.values() if one.pid < 0 and one.tmp.pid]:
            del self.WORKERS[worker.pid]
            child = self.pool.rename(worker.pid, worker.tmp.pid)
            worker.pid = child.pid
            self.WORKERS[worker.pid] = worker
            self.foundry.made(worker.generation, worker.age)
            if child.state is State.RETIRING:  # it was not wanted any more before it lived
                farewell = signal.SIGQUIT if child.hurried else signal.SIGTERM
                self.processes.kill(worker.pid, farewell)

    def refork(self, mold: Mold) -> None:
        """Have all workers of a generation replaced by children of its new mold, or say why not."""
        if mold.unfit:
            self.log.warning(
                "refork_after has no effect: %s", mold.unfit,
                extra=journal.fields(Event.CONFIG_WARNING),
            )  # fmt: skip
            mold.unfit = ""
            return
        text = "generation %d: its workers are forked anew, from what worker %d has become"
        self.log.info(text, mold.generation, mold.origin)
        mold.origin = 0
        for worker in self.WORKERS.values():
            worker.condemned = worker.condemned or worker.generation == mold.generation

    def observe_workers(self) -> None:
        """Read the scoreboard: who is ready, who drains, who is tired."""
        self.welcome_workers()
        now = time.monotonic()
        for worker in self.WORKERS.values():
            self.observe(worker, now)
        if self.someone_left and not self.stopping:
            self.someone_left = False
            self.pass_on()

    def pass_on(self) -> None:
        """Have the others look after a client whose coming was told only to one that left.

        The kernel wakes one worker for a new connection (EPOLLEXCLUSIVE of epoll_ctl(2)). If that
        one drains or dies before it accepts, nobody else hears of it.
        """
        poll = select.poll()
        for listener in self.sockets:
            poll.register(listener.sock.fileno(), select.POLLIN)
        if poll.poll(0):
            for child in self.pool.children.values():
                if child.state is State.READY and child.accepting:
                    self.processes.kill(child.pid, signal.SIGUSR1)

    def observe(self, worker: Worker, now: float) -> None:
        slot, child = worker.tmp, self.pool.children[worker.pid]
        accepted = child.accepting
        became_ready = self.pool.observe(
            worker.pid,
            now,
            booted=slot.booted,
            promise=slot.deadline,
            accepting=not (slot.draining or self.is_held_up(worker)),
            tired=slot.tired or worker.condemned,
        )
        self.someone_left = self.someone_left or (accepted and not child.accepting)
        if became_ready:
            self.became_ready(worker)
        if slot.hung and not worker.mourned:
            worker.mourned = True
            self.mourn(worker, now)

    def is_held_up(self, worker: Worker) -> bool:
        """Whether it hears that it has to drain when the app returns, and before it accepts."""
        told = self.pool.children[worker.pid].state is State.RETIRING
        return told and worker.inline and worker.tmp.occupied(0)

    def mourn(self, worker: Worker, now: float) -> None:
        """A threaded worker with a hung request drains: put its evidence on record now."""
        child = self.pool.children[worker.pid]
        ended = Exit(worker.pid, signal=signal.SIGABRT)
        child = dataclasses.replace(child, state=State.ABORTED)
        reason = "took too long"
        requests = worker.tmp.in_hand()
        notice = obituary(child, ended, reason, worker.words.read(), requests, now)
        text = notice.text.replace("and was killed", "and drains", 1)
        self.say(dataclasses.replace(notice, text=text))

    def say(self, notice: Obituary) -> None:
        fields = journal.fields(notice.event, **notice.fields)
        self.log.log(notice.level, "%s", notice.message, extra=fields)

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
