"""The arbiter: keeps the workers alive. Verbs only; what should happen is decided in the pool."""

import logging
import os
import select
import sys
import time
from collections.abc import Callable
from math import ceil, inf
from signal import Signals
from types import FrameType
from typing import Any, ClassVar

from prefork_sd import (
    __version__,
    activation,
    bulletin,
    heirlooms,
    journal,
    process,
    reexec,
    relief,
    reloading,
    sockets,
)
from prefork_sd.config import MOST_WORKERS
from prefork_sd.doors import Doors
from prefork_sd.errors import (
    ExitCode,
    HaltServer,
    PreforkError,
)
from prefork_sd.journal import Event
from prefork_sd.keepsake import Keepsake
from prefork_sd.listeners import Listener
from prefork_sd.loader import Application, start_directory
from prefork_sd.lookout import Lookout
from prefork_sd.obituary import Obituary
from prefork_sd.pidfile import Pidfile
from prefork_sd.pool import Child, State
from prefork_sd.pressure import Pressure
from prefork_sd.process import Exit, Processes
from prefork_sd.reexec import Preflight
from prefork_sd.release import Release
from prefork_sd.reloading import Reload
from prefork_sd.workers.base import Worker

LONGEST_SLEEP = 86400.0  # seconds; poll(2) takes no more than 24 days


class Arbiter(Lookout):
    """The process that systemd started. `run` returns the exit status."""

    WORKER_BOOT_ERROR = ExitCode.WORKER_BOOT_ERROR
    SIGNALS = (
        Signals.SIGHUP, Signals.SIGQUIT, Signals.SIGINT, Signals.SIGTERM, Signals.SIGTTIN,
        Signals.SIGTTOU, Signals.SIGUSR1, Signals.SIGUSR2, Signals.SIGWINCH, Signals.SIGCHLD,
    )  # fmt: skip

    def __init__(
        self, app: Application, log: logging.Logger, processes: Processes | None = None
    ) -> None:
        # where and how we were started: what a re-exec repeats
        self.START_CTX: dict[str, Any] = {
            "args": list(sys.argv),
            "cwd": str(start_directory()),
            "executable": sys.executable,
        }
        super().__init__(log, processes or Processes())
        self.reexec_pid = 0
        self.reexec_due = False
        self.preflight: Preflight | None = None
        self.keepsake: Keepsake
        self.pressure = Pressure({})
        self.doors = Doors(self)
        self.monitors: list[Listener] = []  # the sockets of `status_bind`
        self.pidfile: Pidfile | None = None
        self.under_way: Reload | None = None
        self.last_reload = ""
        self.healing = False  # the last reload failed half-way, and its workers are tried again
        self.winched = False
        self.halting: HaltServer | None = None
        self.setup(app)

    # ---- set-up

    def setup(self, app: Application) -> None:
        """Take a configuration: at the start, and when a reload has proved a new one."""
        self.use(Release.of(app, self.log), 1)
        self.num_workers = self.release.workers
        self.log.debug("the configuration:\n%s", "\n".join(self.cfg.written()))

    def use(self, release: Release, generation: int) -> None:
        """From now on this is what we are."""
        self.release = self.releases[generation] = release
        self.app, self.cfg, self.hooks = release.app, release.cfg, release.hooks
        self.timeout = self.cfg.timeout
        self.proc_name = self.cfg.proc_name or self.app.name
        self.pool.graceful_timeout = self.cfg.graceful_timeout
        journal.set_level(self.cfg.log_level)

    def start(self) -> None:
        """Everything before the first worker: listeners, control socket, pid file, signals."""
        process.set_title(f"prefork-sd: master [{self.proc_name}]")
        self.groups.settle()
        if self.groups.reason:
            self.log.debug("no control groups of our own: %s", self.groups.reason)
        for sentence in self.groups.cannot(self.cfg.worker_memory_max):
            self.warn(sentence)
        self.pressure = Pressure(os.environ, self.groups.pressure)
        given = activation.inherited(os.environ, self.pid)
        self.sockets = sockets.opened(self.cfg, given, self.warn)
        self.monitors = sockets.monitors(self.cfg, given, self.warn)
        adopting = reexec.MEMORY in given.memory
        if adopting:
            reexec.adopt(self, given.memory)
        heirlooms.remember(self, given.memory)
        heirlooms.keep_listeners(self, given.own)
        self.init_signals()
        self.hooks.on_starting(self)
        if self.cfg.pidfile:
            self.pidfile = Pidfile(self.cfg.pidfile)
            self.pidfile.create(self.pid)
        self.doors.open_control(given.memory.get(activation.CONTROL))
        self.doors.open_status(self.monitors)
        if not adopting:
            where = ", ".join(listener.address for listener in self.sockets)
            text = "prefork-sd %s serves %s on %s"
            fields = journal.fields(Event.START)
            self.log.info(text, __version__, self.cfg.app, where, extra=fields)
        self.set_workers(self.num_workers)
        if adopting:
            self.reload()

    def scale(self, number: int) -> None:
        """Have that many workers until somebody says otherwise or the file does."""
        self.set_workers(number)
        self.keepsake.put(workers=number, configured=self.release.workers)

    def init_signals(self) -> None:
        """A handler only appends; see SignalQueue."""
        self.SIG_QUEUE.install(self.SIGNALS)

    def signal(self, signum: int, frame: FrameType | None = None) -> None:
        """Queue a signal as if it had been sent to us."""
        self.SIG_QUEUE.put(signum, frame)

    # ---- the main loop

    def run(self) -> int:
        """Keep the workers alive until we are told to stop; return the exit status."""
        try:
            self.start()
            while True:
                self.turn()
                self.sleep()
        except HaltServer as halt:
            return self.halt(halt.reason, halt.exit_status, halt.record)
        except PreforkError as error:
            return self.halt(str(error), error.exit_code)
        except Exception as error:
            self.log.critical("the arbiter failed: %s", error, exc_info=True)
            reason = f"the arbiter failed: {type(error).__name__}: {error}"
            self.halt(reason, ExitCode.FAILURE, "halted")
            raise

    def turn(self) -> None:
        """Do what is to be done now. Nothing in here waits."""
        for signum in self.SIG_QUEUE.take():
            self.HANDLERS[signum](self)
        self.doors.answer()
        self.reap_workers()
        self.observe_workers()
        self.murder_workers()
        if not self.halting:
            self.manage_workers()
        reloading.settle(self)
        reexec.expire(self, time.monotonic())
        if self.reexec_due and not self.under_way and not self.stopping:
            reexec.become(self)
        self.report()
        if self.halting:
            raise self.halting
        if self.stopping and not self.pool.children:
            raise HaltServer("stopped")

    def sleep(self) -> None:
        """The one place that waits: for a signal, a worker's byte, a client or a deadline."""
        now = time.monotonic()
        herald = self.herald
        deadline = min(self.pool.next_deadline(now), herald.next_ping, herald.next_reset)
        # a request that begins now is not late before
        timeouts = (one.cfg.timeout for one in self.releases.values() if one.cfg.timeout)
        deadline = min(deadline, now + min(timeouts, default=inf))
        if self.preflight:
            deadline = min(deadline, self.preflight.deadline)
        poll = select.poll()
        poll.register(self.SIG_QUEUE.fileno(), select.POLLIN)
        if self.pressure.fd >= 0:
            poll.register(self.pressure.fd, self.pressure.events)
        deadline = min(deadline, self.doors.next_deadline())
        for fd, events in self.doors.fds().items():
            poll.register(fd, events)
        left = min(max(deadline - now, 0.0), LONGEST_SLEEP)
        for fd, events in poll.poll(None if deadline == inf else ceil(left * 1000)):
            if fd == self.pressure.fd:
                self.pressure.take(events)
                relief.relieve(self, time.monotonic())

    def wakeup(self) -> None:
        """End the sleep."""
        self.SIG_QUEUE.wake()

    # ---- workers: the verbs are the crew's

    def boot_failed(self, generation: int, notice: Obituary, status: int) -> None:
        """A start or a canary that fails decides; a late failure is only retried, with delay."""
        if not self.pool.ever_ready and not self.stopping:
            known = (ExitCode.APP_LOAD_ERROR, ExitCode.CONFIG)
            status = status if status in known else self.WORKER_BOOT_ERROR
            halt = HaltServer(notice.verdict, status, record="halted: no worker could boot")
            self.halting = self.halting or halt
        else:
            reloading.failed(self, generation, notice.verdict, notice.details)

    def close_doors(self) -> None:
        """In a child: let go of the sockets for others."""
        self.doors.close_in_child()
        self.pressure.close()
        self.keepsake.close()
        for listener in self.monitors:
            listener.sock.close()

    def decides(self, child: Child) -> bool:
        """Whether a verdict is the record of that end: the reload's that fails with it, or the
        start's that has failed already with another worker."""
        if self.halting is not None:
            return True
        reload = self.under_way
        canary = reload is not None and child.generation == reload.generation
        canary = canary and self.pool.ever_ready  # before that it is the start that fails
        return canary and self.pool.proving() and not child.unwanted

    def became_ready(self, worker: Worker) -> None:
        """A worker accepts."""
        text, fields = "worker %d is ready", worker.fields(Event.WORKER_BOOTED)
        self.log.info(text, worker.pid, extra=fields)
        if self.under_way and worker.generation == self.under_way.generation:
            reloading.proved(self)

    def set_workers(self, number: int) -> None:
        """Have that many workers from now on."""
        old, self.num_workers = self.num_workers, number
        self.pool.want = 0 if self.winched or self.stopping else number
        self.pool.surge = self.cfg.surge_for(number)
        if old != number or not self.WORKERS:
            self.hooks.nworkers_changed(self, number, old if self.WORKERS else None)

    # ---- reload

    def reload(self, reload: Reload | None = None) -> None:
        """Begin to serve from what is on disk now; a verdict ends it, whatever happens."""
        reloading.begin(self, reload or Reload())

    # ---- reports

    def report(self) -> None:
        """Tell systemd what changed: READY when the workers accept, and the status line."""
        if not self.herald.ready and not self.stopping and self.pool.up():
            now = time.monotonic()
            self.hooks.when_ready(self)
            self.herald.say_ready(bulletin.line(self), now)
            self.log.info(
                "ready: %s", bulletin.workers(self.pool.count(State.READY)),
                extra=journal.fields(Event.READY),
            )  # fmt: skip
        elif not self.halting:
            self.herald.status(bulletin.line(self))

    def warn(self, text: str) -> None:
        self.log.warning("%s", text, extra=journal.fields(Event.CONFIG_WARNING))

    # ---- signals

    def handle_hup(self) -> None:
        """Reload; bring retired workers back."""
        self.reload()

    def handle_term(self) -> None:
        """Stop when the requests in hand are answered; at once when told twice."""
        self.stop(graceful=not self.stopping)

    def handle_int(self) -> None:
        """Stop at once."""
        self.stop(graceful=False)

    def handle_quit(self) -> None:
        """Stop at once."""
        self.stop(graceful=False)

    def handle_ttin(self) -> None:
        """One worker more; or bring back those that WINCH retired."""
        more = 0 if self.winched else 1
        if self.num_workers + more > MOST_WORKERS:
            self.warn(f"SIGTTIN: {self.num_workers} workers are the most that there can be")
            return
        self.winched = False
        self.scale(self.num_workers + more)

    def handle_ttou(self) -> None:
        """One worker fewer, but never none."""
        if self.num_workers > 1:
            self.scale(self.num_workers - 1)

    def handle_usr1(self) -> None:
        """One status record."""
        self.log.info("%s", bulletin.line(self))

    def handle_usr2(self) -> None:
        """Re-exec in place."""
        self.reexec()

    def handle_winch(self) -> None:
        """Retire all workers and keep the sockets."""
        self.winched = True
        if self.under_way:
            reloading.conclude(self, "SIGWINCH retired the workers")
        self.set_workers(self.num_workers)

    def handle_chld(self) -> None:
        """Nothing to do: `reap_workers` follows in every turn."""

    HANDLERS: ClassVar[dict[Signals, Callable[["Arbiter"], None]]] = {
        Signals.SIGHUP: handle_hup,
        Signals.SIGQUIT: handle_quit,
        Signals.SIGINT: handle_int,
        Signals.SIGTERM: handle_term,
        Signals.SIGTTIN: handle_ttin,
        Signals.SIGTTOU: handle_ttou,
        Signals.SIGUSR1: handle_usr1,
        Signals.SIGUSR2: handle_usr2,
        Signals.SIGWINCH: handle_winch,
        Signals.SIGCHLD: handle_chld,
    }

    def reexec(self) -> None:
        """Become the newest code in place, if it shows that it can start."""
        reexec.begin(self)

    def bury_other(self, exit: Exit) -> None:
        if exit.pid == self.reexec_pid:
            reexec.landed(self, exit)

    # ---- the end

    def stop(self, *, graceful: bool = True) -> None:
        """Have the workers finish and go; the loop ends when the last one is gone."""
        self.pool.quick = self.pool.quick or not graceful
        if self.stopping:
            return
        self.stopping = True
        if self.under_way:
            reloading.conclude(self, "the service was stopped")
        self.set_workers(self.num_workers)
        for listener in self.sockets:
            if listener.ours:
                listener.close()
        self.herald.stop(bulletin.line(self))
        self.herald.extend(self.cfg.graceful_timeout + 5, time.monotonic())
        self.log.info("stopping", extra=journal.fields(Event.STOP))

    def halt(self, reason: str, exit_status: int = ExitCode.CLEAN, record: str = "") -> int:
        """Leave nothing behind; return the exit status. `record`: see HaltServer."""
        if exit_status != ExitCode.CLEAN:
            self.log.critical("%s", record or reason, extra=journal.fields(Event.STOP))
            self.herald.failed(reason)
        if self.under_way:
            self.under_way.fail(reason, "")
        self.end_workers()
        self.hooks.on_exit(self)
        for listener in [*self.sockets, *self.monitors]:
            listener.close()
        self.doors.close()
        if self.pidfile:
            self.pidfile.unlink()
        if exit_status == ExitCode.CLEAN:
            self.herald.status(reason)  # systemd shows it for as long as we are gone
        return exit_status
