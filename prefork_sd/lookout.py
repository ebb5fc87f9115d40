"""What becomes of the workers: see who is ready, who is done and how, and tell the pool."""

import dataclasses
import logging
import select
import signal
import time

from prefork_sd import cgroups, journal
from prefork_sd.crew import Crew
from prefork_sd.journal import Event
from prefork_sd.mold import Mold
from prefork_sd.obituary import Obituary, obituary
from prefork_sd.pool import Child, Spawn, State
from prefork_sd.process import Exit, Processes
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


class Lookout(Crew):
    """Looks after a crew: reaps, observes, and hears its molds. Nothing here waits."""

    def __init__(self, log: logging.Logger, processes: Processes) -> None:
        super().__init__(log, processes)
        self.someone_left = False  # a worker accepts no more

    def became_ready(self, worker: Worker) -> None:
        raise NotImplementedError

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
