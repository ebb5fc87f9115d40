"""The arbiter: keeps the workers alive. Verbs only; what should happen is decided in the pool."""

import dataclasses
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from math import ceil, inf
from signal import Signals
from types import FrameType
from typing import ClassVar

from prefork_sd import __version__, activation, frontdesk, journal, listeners, process
from prefork_sd.config import DEFAULT_BIND
from prefork_sd.control import ControlServer
from prefork_sd.errors import (
    ConfigError,
    ExitCode,
    HaltServer,
    HookError,
    PreforkError,
    Problem,
)
from prefork_sd.herald import Herald
from prefork_sd.journal import Event
from prefork_sd.listeners import Listener
from prefork_sd.loader import Application, start_directory
from prefork_sd.obituary import Obituary, obituary
from prefork_sd.pidfile import Pidfile
from prefork_sd.pool import Child, Kill, Pool, Spawn, State
from prefork_sd.process import Exit, Processes
from prefork_sd.release import Release, left_behind
from prefork_sd.reloading import Reload
from prefork_sd.scoreboard import LastWords, Scoreboard
from prefork_sd.signals import SignalQueue
from prefork_sd.workers.base import Worker

HALT_GRACE = 2.0  # seconds for the workers to go when the server halts


class Arbiter:
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
        self.START_CTX = {
            "args": list(sys.argv),
            "cwd": str(start_directory()),
            "executable": sys.executable,
        }
        self.WORKERS: dict[int, Worker] = {}
        self.log = log
        self.processes = processes or Processes()
        self.pid = os.getpid()
        self.worker_age = 0
        self.reexec_pid = 0
        self.pool = Pool()
        self.scoreboard = Scoreboard()
        self.sockets: list[Listener] = []
        self.control: ControlServer | None = None
        self.pidfile: Pidfile | None = None
        self.releases: dict[int, Release] = {}
        self.reasons: dict[int, str] = {}  # why a worker was last sent a signal
        self.under_way: Reload | None = None
        self.last_reload = ""
        self.stopping = False
        self.winched = False
        self.halting: HaltServer | None = None
        self.herald = Herald(os.environ, self.pid)
        self.SIG_QUEUE = SignalQueue()
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
        self.init_signals()
        self.hooks.on_starting(self)
        if self.cfg.pidfile:
            self.pidfile = Pidfile(self.cfg.pidfile)
            self.pidfile.create(self.pid)
        self.open_sockets()
        self.open_control()
        where = ", ".join(listener.address for listener in self.sockets)
        self.log.info(
            "prefork-sd %s serves %s on %s", __version__, self.cfg.app, where,
            extra=journal.fields(Event.START),
        )  # fmt: skip
        self.set_workers(self.num_workers)

    def init_signals(self) -> None:
        """A handler only appends; see SignalQueue."""
        self.SIG_QUEUE.install(self.SIGNALS)

    def signal(self, signum: int, frame: FrameType | None = None) -> None:
        """Queue a signal as if it had been sent to us."""
        self.SIG_QUEUE.put(signum, frame)

    def open_sockets(self) -> None:
        """Listeners from systemd, or our own where there are none."""
        given = activation.inherited(os.environ, self.pid)
        for warning in given.warnings:
            self.warn(warning)
        sockets = [listeners.adopt(name, fd) for name, fd in given.listeners]
        self.sockets = [listener for listener in sockets if listener.name == "http"]
        if given.warnings and not self.sockets:
            raise ConfigError(Problem('systemd gave no listener named "http"'))
        if self.sockets:
            for warning in listeners.disagreements(self.cfg.bind, self.sockets):
                self.warn(warning)
            return
        mode = int(self.cfg.socket_mode, 8)
        for text in self.cfg.bind or DEFAULT_BIND:
            self.sockets.append(listeners.bind(text, self.cfg.backlog, mode=mode))

    def open_control(self) -> None:
        """The control socket, where there is a place for it."""
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        path = self.cfg.control or (f"{runtime}/control" if runtime else "")
        if path:
            self.control = ControlServer(path)
            self.control.bind()

    # ---- the main loop

    def run(self) -> int:
        """Keep the workers alive until we are told to stop; return the exit status."""
        try:
            self.start()
            while True:
                self.turn()
                self.sleep()
        except HaltServer as halt:
            return self.halt(halt.reason, halt.exit_status)
        except PreforkError as error:
            return self.halt(str(error), error.exit_code)
        except Exception as error:
            self.log.critical("the arbiter failed: %s", error, exc_info=True)
            self.halt(f"the arbiter failed: {type(error).__name__}: {error}", ExitCode.FAILURE)
            raise

    def turn(self) -> None:
        """Do what is to be done now. Nothing in here waits."""
        for signum in self.SIG_QUEUE.take():
            self.HANDLERS[signum](self)
        self.answer_control()
        self.reap_workers()
        self.observe_workers()
        self.murder_workers()
        self.manage_workers()
        self.settle_reload()
        self.report()
        if self.halting:
            raise self.halting
        if self.stopping and not self.pool.children:
            raise HaltServer("stopped")

    def sleep(self) -> None:
        """The one place that waits: for a signal, a worker's byte, a client or a deadline."""
        now = time.monotonic()
        deadline = min(self.pool.next_deadline(now), self.herald.next_ping)
        if patience := min((one.cfg.timeout for one in self.releases.values()), default=0.0):
            deadline = min(deadline, now + patience)  # a request that begins now is not late before
        poll = select.poll()
        poll.register(self.SIG_QUEUE.fileno(), select.POLLIN)
        if self.control:
            deadline = min(deadline, self.control.next_deadline())
            for fd, events in self.control.fds().items():
                poll.register(fd, events)
        poll.poll(None if deadline == inf else max(0, ceil((deadline - now) * 1000)))

    def wakeup(self) -> None:
        """End the sleep."""
        self.SIG_QUEUE.wake()

    def answer_control(self) -> None:
        """Serve the control socket's clients, as far as they can be without waiting."""
        control = self.control
        if control is None:
            return
        poll = select.poll()
        for fd, events in control.fds().items():
            poll.register(fd, events)
        for fd, events in poll.poll(0):
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                for call in control.on_readable(fd):
                    frontdesk.answer(self, call)
            if events & select.POLLOUT:
                control.on_writable(fd)
        control.expire(time.monotonic())

    # ---- workers

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
        self.log.log(notice.level, "%s", notice.message, extra=self.fields(notice))
        self.scoreboard.give_back(worker.tmp)
        worker.words.close()
        self.hooks.child_exit(self, worker)
        if child.ready_at > now and not child.unwanted:
            self.boot_failed(child, exit, notice)

    def boot_failed(self, child: Child, exit: Exit, notice: Obituary) -> None:
        """A start or a canary that fails decides; a late failure is only retried, with delay."""
        if not self.pool.ever_ready and not self.stopping:
            known = (ExitCode.APP_LOAD_ERROR, ExitCode.CONFIG)
            status = exit.status if exit.status in known else self.WORKER_BOOT_ERROR
            self.halting = self.halting or HaltServer(notice.text, status)
        elif self.under_way and child.generation == self.under_way.generation:
            if self.pool.proving():
                self.pool.abandon()
                self.conclude(notice.text, notice.details)
            elif self.under_way.failed_again():
                self.conclude(f"{notice.text} (it will be tried again)", notice.details)

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
            self.log.info(
                "worker %d is ready", worker.pid, extra=worker.fields(Event.WORKER_BOOTED)
            )
            if self.under_way and worker.generation == self.under_way.generation:
                self.adopt_release(self.under_way)
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
        self.log.log(notice.level, "%s", text, extra=self.fields(notice))

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
            elif not self.halting:
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
        if not self.herald.ready or self.under_way:
            self.herald.extend(release.cfg.boot_timeout + release.cfg.graceful_timeout + 10, now)
        return worker.pid

    def fork_failed(self, spawn: Spawn, error: Exception, now: float) -> None:
        """No worker could be made: that is a boot that failed."""
        self.pool.fork_failed(spawn, now)
        text = f"cannot start a worker: {error}"
        self.log.error("%s", text, extra=journal.fields(Event.WORKER_BOOT_FAILED))
        if not self.pool.ever_ready:
            self.halting = self.halting or HaltServer(text, self.WORKER_BOOT_ERROR)
        elif self.under_way and spawn.generation == self.under_way.generation:
            if self.pool.proving():
                self.pool.abandon()
            self.conclude(text)

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

    def set_workers(self, number: int) -> None:
        """Have that many workers from now on."""
        old, self.num_workers = self.num_workers, number
        self.pool.want = 0 if self.winched or self.stopping else number
        self.pool.surge = self.cfg.surge_for(number)
        if old != number or not self.WORKERS:
            self.hooks.nworkers_changed(self, number, old if self.WORKERS else None)

    # ---- reload

    def reload(self, reload: Reload | None = None) -> None:
        """Begin to serve from what is on disk now; `conclude` ends it, whatever happens."""
        if self.stopping:
            return
        now = time.monotonic()
        if self.under_way is None:
            self.herald.reloading("reloading", now)
        self.under_way = Reload.joined(self.under_way, reload or Reload())
        self.winched = False
        try:
            self.hooks.on_reload(self)
            release = Release.of(self.app.fresh(), self.log)
            generation = self.pool.begin()
            self.releases[generation] = release
            self.under_way.start(generation, now)
            self.pool.want = self.num_workers
            self.log.info(
                "reload: generation %d begins with one worker", generation,
                extra=journal.fields(Event.RELOAD_BEGIN, PREFORK_SD_GENERATION=generation),
            )  # fmt: skip
        except PreforkError as error:
            self.conclude(str(error))
        except Exception as error:
            self.log.exception("the reload itself failed")
            self.conclude(f"the reload itself failed: {type(error).__name__}: {error}")

    def adopt_release(self, reload: Reload) -> None:
        """Its first worker is ready: the new configuration is now ours."""
        release = self.releases[reload.generation]
        if release is self.release:
            return
        before = self.release
        for sentence in left_behind(before.cfg, release.cfg, self.app.name):
            self.warn(sentence)
        self.use(release, reload.generation)
        changed = before.workers != release.workers  # else TTIN, TTOU and Scale hold
        self.set_workers(release.workers if changed else self.num_workers)

    def settle_reload(self) -> None:
        """Conclude the reload when each new connection goes to the new generation."""
        if self.under_way and self.under_way.generation and self.pool.settled():
            self.conclude()

    def conclude(self, failure: str = "", details: str = "") -> None:
        """The verdict: to systemd, to those who asked, and on record. READY=1 in every case."""
        reload, self.under_way = self.under_way, None
        now = time.monotonic()
        self.last_reload = f"the last reload failed: {failure}" if failure else ""
        self.herald.reloaded(self.describe(), now, failed=bool(failure))
        if reload is None:
            return
        generation = self.pool.target
        if failure:
            message = f"reload failed: {failure}"
            if self.pool.serving == generation:
                message += f"\ngeneration {generation} serves on"
            self.log.error(
                "%s", f"{message}\n{details}".strip(), extra=journal.fields(Event.RELOAD_FAILED)
            )
            reload.fail(failure, details)
        else:
            message = f"generation {generation} serves after {now - reload.began:.1f} s"
            self.log.info(
                "reload: %s", message,
                extra=journal.fields(Event.RELOAD_DONE, PREFORK_SD_GENERATION=generation),
            )  # fmt: skip
            reload.succeed(generation, message)
        known = {child.generation for child in self.pool.children.values()}
        known |= {self.pool.serving, self.pool.target}
        self.releases = {key: value for key, value in self.releases.items() if key in known}

    # ---- reports

    def report(self) -> None:
        """Tell systemd what changed: READY when the workers accept, and the status line."""
        if not self.herald.ready and not self.stopping and self.pool.up():
            now = time.monotonic()
            self.hooks.when_ready(self)
            self.herald.say_ready(self.describe(), now)
            self.log.info(
                "ready: %d workers", self.pool.count(State.READY),
                extra=journal.fields(Event.READY),
            )  # fmt: skip
        elif not self.halting:
            self.herald.status(self.describe())

    def describe(self) -> str:
        """The one line in `systemctl status`."""
        pool = self.pool
        ready, booting = pool.count(State.READY), pool.count(State.BOOTING)
        if self.stopping:
            return f"stopping: {len(pool.children)} workers have requests to finish"
        if not self.herald.ready and not pool.up():
            return f"booting: {ready} of {self.num_workers} workers are ready"
        text = f"serving: {ready} of {pool.want} workers ready, generation {pool.serving}"
        if self.winched:
            text = "paused: workers were retired by SIGWINCH; SIGHUP or SIGTTIN brings them back"
        if self.under_way:
            fresh = pool.ready_of(pool.target)
            text += f"; reloading: {fresh} of {pool.want} workers of generation {pool.target}"
        elif booting:
            text += f", {booting} booting"
        return f"{text}; {self.last_reload}" if self.last_reload else text

    def warn(self, text: str) -> None:
        self.log.warning("%s", text, extra=journal.fields(Event.CONFIG_WARNING))

    def fields(self, notice: Obituary) -> dict[str, object]:
        return journal.fields(notice.event, **notice.fields)

    # ---- signals

    def handle_hup(self) -> None:
        """Reload; bring retired workers back."""
        self.reload()

    def handle_term(self) -> None:
        """Stop when the requests in hand are answered."""
        self.stop()

    def handle_int(self) -> None:
        """Stop at once."""
        self.stop(graceful=False)

    def handle_quit(self) -> None:
        """Stop at once."""
        self.stop(graceful=False)

    def handle_ttin(self) -> None:
        """One worker more; or bring back those that WINCH retired."""
        more = 0 if self.winched else 1
        self.winched = False
        self.set_workers(self.num_workers + more)

    def handle_ttou(self) -> None:
        """One worker fewer, but never none."""
        if self.num_workers > 1:
            self.set_workers(self.num_workers - 1)

    def handle_usr1(self) -> None:
        """One status record."""
        self.log.info("%s", self.describe())

    def handle_usr2(self) -> None:
        """Re-exec in place."""
        self.reexec()

    def handle_winch(self) -> None:
        """Retire all workers and keep the sockets."""
        self.winched = True
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
        self.log.warning("SIGUSR2: a re-exec in place is not available yet; use a restart")

    # ---- the end

    def stop(self, *, graceful: bool = True) -> None:
        """Have the workers finish and go; the loop ends when the last one is gone."""
        self.pool.quick = self.pool.quick or not graceful
        if self.stopping:
            return
        self.stopping = True
        if self.under_way:
            self.conclude("the service was stopped")
        self.set_workers(self.num_workers)
        for listener in self.sockets:
            if listener.ours:
                listener.close()
        self.herald.stop(self.describe())
        self.herald.extend(self.cfg.graceful_timeout + 5, time.monotonic())
        self.log.info("stopping", extra=journal.fields(Event.STOP))

    def halt(self, reason: str, exit_status: int = ExitCode.CLEAN) -> int:
        """Leave nothing behind; return the exit status."""
        if exit_status != ExitCode.CLEAN:
            self.log.critical("%s", reason, extra=journal.fields(Event.STOP))
            self.herald.failed(reason, exit_status)
        if self.under_way:
            self.under_way.fail(reason, "")
        self.end_workers()
        self.hooks.on_exit(self)
        for listener in self.sockets:
            listener.close()
        if self.control:
            self.control.close()
        if self.pidfile:
            self.pidfile.unlink()
        return exit_status

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
