"""One generation: its configuration, hooks and way to serve, as they were on disk when it began."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prefork_sd import journal, units
from prefork_sd.cgroups import Groups
from prefork_sd.config import Config
from prefork_sd.errors import AppImportError, ConfigError, Problem
from prefork_sd.guarded import guarded
from prefork_sd.hooks import Hooks
from prefork_sd.imports import import_object
from prefork_sd.listeners import Listener
from prefork_sd.loader import Application, auto_workers, load_hooks
from prefork_sd.scoreboard import LastWords, Scoreboard, Slot
from prefork_sd.workers.base import WORKER_CLASSES, Worker

if TYPE_CHECKING:
    from ssl import SSLContext

# what only a restart of the service, or of its socket, can change
SOCKET_SETTINGS = (
    "bind",
    "tls_bind",
    "status_bind",
    "backlog",
    "socket_mode",
    "socket_user",
    "socket_group",
)
SERVICE_SETTINGS = ("user", "group", "pidfile", "control", "watchdog", "proc_name", "unit")


class Server(Protocol):
    """What a worker is given of the arbiter: by itself, or by its deputy in another process."""

    pid: int
    log: logging.Logger
    sockets: list[Listener]
    scoreboard: Scoreboard
    groups: Groups

    @property
    def wake_fd(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Release:
    """Everything that the workers of one generation are made of."""

    app: Application
    hooks: Hooks
    worker_class: type[Worker]
    tls: "SSLContext | None"

    @property
    def cfg(self) -> Config:
        return self.app.cfg

    @property
    def workers(self) -> int:
        return self.cfg.workers or auto_workers()

    @property
    def molded(self) -> bool:
        """Whether a mold makes the workers."""
        return self.cfg.preload_app or bool(self.cfg.venv)

    @classmethod
    def of(cls, app: Application, log: logging.Logger) -> "Release":
        """Read the hooks and the certificates, find the way to serve. Raises ConfigError."""
        hooks = guarded(load_hooks(app.cfg), log)
        return cls(app, hooks, worker_class(app.cfg), tls_context(app.cfg, log))

    def worker(
        self, server: Server, generation: int, age: int, slot: Slot, words: LastWords
    ) -> Worker:
        """A worker that has not been forked yet."""
        cfg = self.cfg
        worker = self.worker_class(
            age, server.pid, server.sockets, self.app, cfg.timeout, cfg, server.log
        )
        worker.generation, worker.hooks, worker.server = generation, self.hooks, server
        worker.tls = self.tls
        worker.tmp, worker.words, worker.wake_fd = slot, words, server.wake_fd
        return worker


def tls_context(cfg: Config, log: logging.Logger) -> "SSLContext | None":
    """One for all workers of a generation: they take each other's session tickets.

    Raises ConfigError.
    """
    if not cfg.tls_bind:
        return None
    from prefork_sd import tls  # libssl, which a service without TLS need not load

    def warn(text: str) -> None:
        log.warning("%s", text, extra=journal.fields(journal.Event.CONFIG_WARNING))

    return tls.context(cfg, warn)


def worker_class(cfg: Config) -> type[Worker]:
    """The class that `worker_class` names; for auto, that for WSGI. Raises ConfigError."""
    name = cfg.worker_class
    if name == "auto":
        name = "threads" if cfg.threads > 1 else "sync"
    try:
        found = import_object(WORKER_CLASSES.get(name, name))
    except AppImportError as error:
        raise ConfigError(Problem(str(error), "worker_class")) from error
    if not (isinstance(found, type) and issubclass(found, Worker)):
        raise ConfigError(Problem(f"{name} is not a class of workers", "worker_class"))
    return found


def left_behind(old: Config, new: Config, name: str) -> Iterator[str]:
    """Yield a sentence for what a reload cannot change though the file says it, with the way."""
    changed = [key for key in SOCKET_SETTINGS if getattr(old, key) != getattr(new, key)]
    if changed:
        yield (
            f"a reload cannot change {', '.join(changed)}; this does: "
            f"systemctl daemon-reload && {_renewing_sockets(old, new, name)}"
        )
    changed = [key for key in SERVICE_SETTINGS if getattr(old, key) != getattr(new, key)]
    if changed:
        yield (
            f"a reload cannot change {', '.join(changed)}; this does: "
            f"systemctl daemon-reload && systemctl restart {name}"
        )


def _renewing_sockets(old: Config, new: Config, name: str) -> str:
    """The commands that open other sockets; a socket's restart restarts its service."""
    before = {socket.unit for socket in units.sockets(name, old)}
    now = {socket.unit for socket in units.sockets(name, new)}
    gone, kept = sorted(before - now), sorted(before & now)
    stop = f"systemctl stop {' '.join(gone)} && " if gone else ""
    return f"{stop}systemctl restart {' '.join(kept) or name}"
