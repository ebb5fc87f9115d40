"""What every worker is: a process with a slot on the scoreboard that drains when it is told to."""

import faulthandler
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from signal import Signals
from types import FrameType
from typing import TYPE_CHECKING, Any

from prefork_sd import applog, cgroups, journal, process, signals
from prefork_sd.config import Config
from prefork_sd.errors import AppImportError, ConfigError, ExitCode, PreforkError, Problem
from prefork_sd.hooks import Hooks
from prefork_sd.imports import ASGI, WSGI, import_object, interface_of
from prefork_sd.listeners import HTTPS, Listener
from prefork_sd.loader import Application
from prefork_sd.pressure import give_back
from prefork_sd.scoreboard import BOOTED, DRAINING, TIRED, LastWords, Slot
from prefork_sd.signals import SignalQueue

if TYPE_CHECKING:
    from ssl import SSLContext

# what systemd told the arbiter, and nobody else
PRIVATE = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS",
           "LISTEN_FDNAMES", "LISTEN_PIDFDID", "FDSTORE")  # fmt: skip

WORKER_CLASSES = {
    "sync": "prefork_sd.workers.sync.SyncWorker",
    "threads": "prefork_sd.workers.threads.ThreadsWorker",
    "asgi": "prefork_sd.workers.asgi.AsgiWorker",
}

OWN_FILES = 1024  # files that the app may have open beside its clients' connections

MEANT_FOR_THE_ARBITER = (signal.SIGHUP, signal.SIGWINCH)


def let_fork() -> None:
    """Have a child that the app forks be no worker: it dies of a signal like anybody else.

    Signals are held back meanwhile: CPython forgets those that come before a child is set up.
    """
    masks: dict[int, set[signal.Signals]] = {}  # by thread

    def before() -> None:
        everything = signal.valid_signals()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
        masks[threading.get_ident()] = {one for one in mask if isinstance(one, signal.Signals)}

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(threading.get_ident(), set()))

    def in_child() -> None:
        signals.forget(unblock=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.disable()
        go_on()

    os.register_at_fork(before=before, after_in_parent=go_on, after_in_child=in_child)


class Worker:
    """One worker process. Made by the arbiter before the fork; everything else happens after it.

    `inline` says that the app is called by the thread that accepts: nothing is accepted meanwhile.
    `interface` is what it calls an app by: WSGI or ASGI.

    A way to serve overrides `run`, which serves until `alive` is false and what was accepted is
    answered, calling `notify` before each thing that may take long; and `boot`, if more than the
    app's import has to succeed before it can serve.
    """

    inline = False
    interface = WSGI

    def __init__(
        self,
        age: int,
        ppid: int,
        sockets: Sequence[Listener],
        app: Application,
        timeout: float,
        cfg: Config,
        log: logging.Logger,
    ) -> None:
        self.age = age
        self.ppid = ppid
        self.pid = 0
        self.sockets = list(sockets)
        self.app = app
        self.timeout = timeout
        self.cfg = cfg
        self.log = log
        self.alive = True
        self.nudged = False  # there may be a client of whom only a worker that left was told
        self.generation = 1
        self.hooks = Hooks()
        self.server: Any = None  # the arbiter, for the hooks that want it
        self.proc_name = cfg.proc_name or app.name
        self.tmp: Slot  # the slot on the scoreboard, given before the fork
        self.words: LastWords
        self.wake_fd = -1  # a byte in it makes the arbiter look at the scoreboard
        self.wsgi: Any = None
        self.tls: SSLContext | None = None  # of the generation, if it serves TLS
        self.signals: SignalQueue
        self.group: Path | None = None  # its control group, where there is one
        self.condemned = False  # the arbiter wants a successor for it
        self.mourned = False  # its evidence is on record
        self.requests = 0
        self.refork_at = inf  # requests after which, between two of them, it calls
        self.refork: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return f"worker {self.pid} (generation {self.generation})"

    @property
    def booted(self) -> bool:
        return self.tmp.booted

    # ---- boot

    def init_process(self) -> int:
        """Boot and serve, in the child; return the exit status."""
        self.pid = os.getpid()
        if self.group is not None:
            with suppress(OSError):
                cgroups.join(self.group)
        if self.tmp.age != self.age:  # the mold was let go before it had made us
            return ExitCode.CLEAN
        self.tmp.introduce(self.pid, self.generation)
        for name in PRIVATE:
            os.environ.pop(name, None)
        self.init_signals()
        process.die_with_parent(self.ppid, signal.SIGTERM)
        if isinstance(sys.stdout, io.TextIOWrapper):  # what is printed shall not die with us
            sys.stdout.reconfigure(line_buffering=True)
        process.set_title(f"prefork-sd: worker [{self.proc_name}]")
        process.allow_files(self.cfg.worker_connections + OWN_FILES)
        try:
            self.hooks.post_fork(self.server, self)
            process.become(self.cfg.user, self.cfg.group)
            process.die_with_parent(self.ppid, signal.SIGTERM)  # a change of user clears it
            native = journal.is_native(self.log)
            if native:
                applog.capture(self.proc_name, self.fields())
            imported = self.wsgi is not None
            self.load()
            if native:
                applog.adopt(self.proc_name, self.fields())
            self.boot()
            self.hooks.post_worker_init(self)
            if not imported:
                process.settle_memory()
        except AppImportError as error:
            return self.fail_to_boot(f"{error}\n{error.details}", error.exit_code)
        except PreforkError as error:
            return self.fail_to_boot(str(error), error.exit_code)
        except SystemExit as error:
            text = f"the code called sys.exit({error.code!r}) while the worker was booting"
            return self.fail_to_boot(text, ExitCode.WORKER_BOOT_ERROR)
        except BaseException as error:  # noqa: BLE001 (anything may come out of app code)
            text = "".join(traceback.format_exception(error))
            summary = f"{type(error).__name__}: {error}"
            return self.fail_to_boot(f"{summary}\n{text}", ExitCode.WORKER_BOOT_ERROR)
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.siginterrupt(signal.SIGTERM, False)
        faulthandler.enable(file=self.words.fd, all_threads=True)  # the app may have said otherwise
        self.tmp.raise_flag(BOOTED)
        self.wake_arbiter()
        try:
            self.run()
        finally:
            self.leave()
        return ExitCode.CLEAN

    def load(self) -> None:
        """Get the app: into `self.wsgi`, unless a mold has imported it already."""
        if self.tls is None and any(listener.name == HTTPS for listener in self.sockets):
            text = "is empty, but a socket for TLS is open; stop its .socket unit to be rid of it"
            raise ConfigError(Problem(text, "tls_bind", str(self.app.source or "")))
        if self.wsgi is None:
            self.app.prepare()
            self.wsgi = self.app.wsgi()
        self.__class__ = self.suited(self.wsgi, self.cfg)  # only the imported app tells

    @classmethod
    def suited(cls, app: Callable[..., Any], cfg: Config) -> "type[Worker]":
        """The class that can call that app: this one, or another where `worker_class` is auto.

        Raises ConfigError.
        """
        kind = interface_of(app)
        if kind == cls.interface:
            return cls
        if kind == ASGI and cfg.worker_class == "auto":
            found: type[Worker] = import_object(WORKER_CLASSES["asgi"])  # type: ignore[assignment]
            return found
        text = f'{cfg.worker_class} is for {cls.interface}, and "{cfg.app}" is {kind}; leave it out'
        raise ConfigError(Problem(text, "worker_class"))

    @classmethod
    def equip(cls, cfg: Config) -> None:
        """Import what every such worker needs beside the app. Raises PreforkError."""

    def boot(self) -> None:
        """Do what has to succeed before the worker counts as ready."""

    def fail_to_boot(self, text: str, status: int) -> int:
        """Leave the reason for the arbiter, which puts it on record."""
        self.words.write(text)
        return status

    # ---- signals

    def init_signals(self) -> None:
        """TERM drains, INT and QUIT leave at once, ABRT leaves its stacks behind and dies.

        Until the worker has booted, TERM keeps its default: nothing is to be drained, and code that
        hangs in its import would never let a handler run.
        """
        self.signals = SignalQueue()
        self.signals.install(())
        let_fork()
        faulthandler.disable()  # else `enable` would leave the handlers as they are
        signal.signal(signal.SIGINT, self.handle_quit)
        signal.signal(signal.SIGQUIT, self.handle_quit)
        signal.signal(signal.SIGABRT, self.handle_abort)
        signal.signal(signal.SIGUSR1, self.handle_nudge)
        signal.siginterrupt(signal.SIGUSR1, False)
        for signum in MEANT_FOR_THE_ARBITER:
            signal.signal(signum, self.handle_nothing)
        signal.signal(signal.SIGUSR2, self.handle_pressure)
        # writes the stacks from C, then hands over to handle_abort if Python still runs
        faulthandler.enable(file=self.words.fd, all_threads=True)

    def handle_nudge(self, signum: int, frame: FrameType | None) -> None:
        self.nudged = True

    def handle_nothing(self, signum: int, frame: FrameType | None) -> None:
        """Not SIG_IGN, which the programs that an app starts would inherit."""

    def handle_pressure(self, signum: int, frame: FrameType | None) -> None:
        """The arbiter's word that memory is short."""
        give_back()

    def handle_exit(self, signum: int, frame: FrameType | None) -> None:
        self.alive = False
        if os.getppid() != self.ppid:  # nobody else is left to bound the drain
            signal.setitimer(signal.ITIMER_REAL, self.cfg.graceful_timeout or 1.0)

    def handle_quit(self, signum: int, frame: FrameType | None) -> None:
        self.alive = False
        try:
            self.hooks.worker_int(self)
            self.leave()
        finally:  # a signal may come where nothing can be printed
            os._exit(ExitCode.CLEAN)

    def handle_abort(self, signum: int, frame: FrameType | None) -> None:
        self.alive = False
        try:
            self.point_out()
            self.hooks.worker_abort(self)
        finally:
            os._exit(128 + Signals.SIGABRT)

    def point_out(self) -> None:
        """About to be aborted: leave more evidence than the stacks, if there is any."""

    # ---- service

    def run(self) -> None:
        raise NotImplementedError

    def notify(self, deadline: float) -> None:
        """The heartbeat: promise to be heard again by then (monotonic seconds)."""
        self.tmp.promise(deadline)

    def drain(self) -> None:
        """Let the arbiter know that this worker accepts nothing more."""
        self.tmp.raise_flag(DRAINING)
        self.wake_arbiter()

    def tire(self) -> None:
        """Ask for a successor, and serve on until it is there."""
        self.tmp.raise_flag(TIRED)
        self.wake_arbiter()

    def wake_arbiter(self) -> None:
        with suppress(OSError):  # full: it is awake; broken: it is gone
            os.write(self.wake_fd, b".")

    def abandon(self) -> None:
        """In a child of this worker, which is none: let go of what is the worker's alone."""
        process.close([self.words.fd, self.signals.fileno(), self.signals.write_fd])

    def leave(self) -> None:
        """The last thing in a worker's life."""
        self.hooks.worker_exit(self.server, self)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()

    def fields(self, event: "journal.Event | None" = None, **named: object) -> dict[str, object]:
        """The fields of a log record of this worker."""
        return journal.fields(
            event,
            PREFORK_SD_WORKER_PID=self.pid,
            PREFORK_SD_WORKER_AGE=self.age,
            PREFORK_SD_GENERATION=self.generation,
            **named,
        )
