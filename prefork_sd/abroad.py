"""A mold under another Python: that of an app's virtual environment, which need not know us.

The arbiter forks and executes the environment's interpreter on a parcel of this package. A brief,
a memory file in JSON, says which inherited descriptors are what. What is said on standard error
before the interpreter has come up becomes the mold's last words.
"""

import importlib.util
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from prefork_sd import journal, listeners, parcel, process, venvs
from prefork_sd.cgroups import Groups
from prefork_sd.config import Config
from prefork_sd.errors import ExitCode, PreforkError
from prefork_sd.hooks import Hooks
from prefork_sd.imports import import_object
from prefork_sd.listeners import Listener
from prefork_sd.loader import Application, environment_of
from prefork_sd.mold import Post, be_mold, title
from prefork_sd.process import Processes
from prefork_sd.release import Release, Server
from prefork_sd.scoreboard import LastWords, Scoreboard
from prefork_sd.workers.base import PRIVATE, WORKER_CLASSES, Worker


@dataclass(slots=True)
class Deputy:
    """What stands for the arbiter in a process that was never forked from it."""

    pid: int
    log: logging.Logger
    app: Application
    sockets: list[Listener]
    scoreboard: Scoreboard
    groups: Groups
    wake_fd: int
    num_workers: int = 0
    hooks: Hooks = field(default_factory=Hooks)
    WORKERS: dict[int, Worker] = field(default_factory=dict)

    @property
    def cfg(self) -> Config:
        return self.app.cfg


def depart(release: Release, post: Post, server: Server, package: int) -> int:
    """In a child of the arbiter: be the environment's interpreter from now on, and its mold.

    Returns an exit status if that cannot be. `package` is the descriptor of a parcel.
    """
    cfg = release.cfg
    process.die_with_parent(server.pid, signal.SIGTERM)
    try:
        process.become(cfg.user, cfg.group)  # what is in the environment is not for root to run
        process.die_with_parent(server.pid, signal.SIGTERM)  # a change of user clears it
        python = venvs.interpreter(cfg.venv)
        environ = {name: text for name, text in os.environ.items() if name not in PRIVATE}
        environ = {**venvs.activated(python, environ), **environment_of(cfg)}
    except PreforkError as error:
        return post.leave(str(error), error.exit_code)
    stderr = os.dup(2)
    brief = os.memfd_create("prefork-sd-brief", 0)  # and not close-on-exec
    preface = f"venv: {python} does not start: "
    told = _brief(release, post, server)
    told |= {"package": package, "stderr": stderr, "preface": len(preface.encode())}
    os.write(brief, json.dumps(told).encode())
    for fd in [*_descriptors(told), stderr]:
        os.set_inheritable(fd, True)
    post.words.write(preface)
    os.dup2(post.words.fd, 2)
    argv = [str(python), f"{parcel.PLACE}{package}", str(brief), str(post.words.fd), cfg.venv]
    try:
        Processes().replace([*argv, title(release)], environ)
    except OSError as error:
        return post.leave(str(error.strerror), ExitCode.CONFIG)


def _brief(release: Release, post: Post, server: Server) -> dict[str, Any]:
    """What the mold has to know."""
    app, cfg = release.app, release.cfg
    return {
        "arbiter": server.pid,
        "argv": sys.argv,
        "level": server.log.level,
        "name": app.name,
        "source": str(app.source or ""),
        "cfg": {each.name: getattr(cfg, each.name) for each in fields(cfg)},
        "workers": release.workers,
        "groups": str(server.groups.root or ""),
        "generation": post.generation,
        "preload": post.preload,
        "channel": post.channel.fileno(),
        "words": post.words.fd,
        "scoreboard": server.scoreboard.fd,
        "wake": server.wake_fd,
        "sockets": [(listener.name, listener.sock.fileno()) for listener in server.sockets],
    }


def _descriptors(told: Mapping[str, Any]) -> list[int]:
    names = ("package", "channel", "words", "scoreboard", "wake")
    return [told[name] for name in names] + [fd for _, fd in told["sockets"]]


def arrive(brief: int) -> NoReturn:
    """Under the environment's interpreter: take up the inheritance and live as that mold."""
    told = json.loads(os.pread(brief, os.fstat(brief).st_size, 0))
    os.close(brief)
    os.dup2(told["stderr"], 2)
    os.close(told["stderr"])
    words = told["words"]
    os.write(2, os.pread(words, os.fstat(words).st_size, told["preface"]))  # it did start
    os.ftruncate(words, 0)
    os.lseek(words, 0, os.SEEK_SET)
    for fd in _descriptors(told):
        os.set_inheritable(fd, False)
    sys.argv[:] = told["argv"]
    process.be_child(partial(_settle, told))


def _settle(told: Mapping[str, Any]) -> int:
    channel = socket.socket(fileno=told["channel"])
    post = Post(told["generation"], channel, LastWords(told["words"]), told["preload"])
    log = journal.setup(os.environ, level="info", service=told["name"])
    log.setLevel(told["level"])
    cfg = Config(**{name: _frozen(value) for name, value in told["cfg"].items()})
    source = Path(told["source"]) if told["source"] else None
    app = Application(told["name"], source, cfg=cfg)
    groups = Groups()
    groups.root = Path(told["groups"]) if told["groups"] else None
    sockets = [listeners.adopt(name, fd) for name, fd in told["sockets"]]
    board = Scoreboard(told["scoreboard"])
    deputy = Deputy(told["arbiter"], log, app, sockets, board, groups, told["wake"])
    try:
        release = Release.of(app, log)
    except PreforkError as error:
        return post.leave(str(error), error.exit_code)
    deputy.hooks, deputy.num_workers = release.hooks, told["workers"]
    if cfg.worker_class == "auto" and importlib.util.find_spec("uvicorn"):
        import_object(WORKER_CLASSES["asgi"])  # here, once, if its workers may need it
    return be_mold(release, post, deputy)


def _frozen(value: Any) -> Any:
    """A value of a `Config` as it was before JSON made lists of its tuples."""
    if isinstance(value, dict):
        return {name: _frozen(each) for name, each in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
