"""The mold: a process that imports the app once and forks a generation's workers from it.

With `preload_app` the arbiter itself stays free of app code and can always reload: a new
generation has a new mold. The workers of a mold are its grandchildren; the process in between
leaves at once, so that the kernel hands them to the arbiter, which is their subreaper (prctl(2)).
"""

import faulthandler
import gc
import json
import os
import platform
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from prefork_sd import cgroups, process
from prefork_sd.errors import AppImportError, ExitCode, PreforkError
from prefork_sd.release import Release, Server
from prefork_sd.scoreboard import LastWords
from prefork_sd.workers.base import Worker

MOST_BYTES = 65536
AT_ONCE = 8  # orders on their way at a time, so that the channel never fills


@dataclass(frozen=True, slots=True)
class Order:
    """One worker to be made. Its `age` names it until it has a pid."""

    age: int
    slot: int
    words: int
    heir: int = -1  # the channel of the mold that may be forked from it one day


class Mold:
    """The arbiter's side: what it has asked for, and what it has heard. It never waits."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.pid = 0
        self.ready = False
        self.python = ""  # the version that runs it
        self.kind = ""  # the class of workers that suits the app, once that is imported
        self.leaving = False  # was let go
        self.lost = False  # nobody is at the other end
        self.origin = 0  # the worker that it was forked from, if it was
        self.unfit = ""  # why no mold can be forked from a worker
        self.words = LastWords()
        self.threads: list[str] = []  # of the app, which no worker will have
        self.refused: list[tuple[int, str]] = []  # age, reason: could not be forked
        self.channel, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self._orders: deque[Order] = deque()
        self._under_way: set[int] = set()

    def order(self, order: Order) -> None:
        """Have a worker made, as soon as the app is imported."""
        self._orders.append(order)
        self._send()

    def made(self, age: int) -> None:
        """That worker lives, or never will."""
        self._under_way.discard(age)
        self._orders = deque(one for one in self._orders if one.age != age)
        self._send()

    def hear(self) -> bool:
        """Take what the mold has said; True if it has just become ready."""
        before = self.ready
        with suppress(OSError):
            while not self.lost:
                message, fds, _, _ = socket.recv_fds(self.channel, MOST_BYTES, 1)
                if not message:
                    self.lost = True
                    break
                said = json.loads(message)
                if "threads" in said:
                    self.ready, self.threads = True, said["threads"]
                    self.python, self.kind = said["python"], said["kind"]
                if fds:
                    self.words.close()
                    self.words = LastWords(fds[0])
                    self.pid, self.origin = said["pid"], said["origin"]
                self.unfit = said.get("unfit", self.unfit)
                if "refused" in said:
                    self.refused.append((said["refused"], said["reason"]))
        self._send()
        return self.ready and not before

    def _send(self) -> None:
        while self.ready and self._orders and len(self._under_way) < AT_ONCE:
            order = self._orders[0]
            message = json.dumps({"age": order.age, "slot": order.slot}).encode()
            fds = [order.words, order.heir] if order.heir >= 0 else [order.words]
            try:
                socket.send_fds(self.channel, [message], fds)
            except OSError:  # it is about to die: then `bury` deals with the orders
                return
            self._under_way.add(order.age)
            self._orders.popleft()

    @property
    def idle(self) -> bool:
        """Whether everything that was ordered has been made."""
        return not (self._orders or self._under_way)

    def close(self) -> None:
        """Let go of it: without us, a mold leaves."""
        self.channel.close()
        self.theirs.close()
        self.words.close()


@dataclass(frozen=True, slots=True)
class Post:
    """The mold's own side. With `preload` it imports the app; else each of its workers does."""

    generation: int
    channel: socket.socket
    words: LastWords
    preload: bool

    def say(self, server: Server, fds: Sequence[int] = (), **what: object) -> None:
        """Tell the arbiter."""
        socket.send_fds(self.channel, [json.dumps(what).encode()], fds)
        with suppress(BlockingIOError):  # full: it is awake
            os.write(server.wake_fd, b".")

    def leave(self, text: str, status: int) -> int:
        """Why there will be no mold: for the arbiter, which puts it on record."""
        self.words.write(text)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        return status


def be_mold(release: Release, post: Post, server: Server) -> int:
    """The mold's life, in its process; return the exit status."""
    faulthandler.enable(file=post.words.fd, all_threads=True)
    process.die_with_parent(server.pid, signal.SIGTERM)
    process.set_title(title(release))
    app, kind, unfit = None, "", ""
    try:
        process.become(release.cfg.user, release.cfg.group)
        process.die_with_parent(server.pid, signal.SIGTERM)  # a change of user clears it
        if post.preload:
            release.app.prepare()
            app = release.app.wsgi()
            suited = release.worker_class.suited(app, release.cfg)
            suited.equip(release.cfg)
            kind = suited.__name__
            if release.cfg.refork_after and not suited.inline:
                unfit = f"the app is served by {kind}, and only a sync worker can be forked"
    except AppImportError as error:
        return post.leave(f"{error}\n{error.details}", error.exit_code)
    except PreforkError as error:
        return post.leave(str(error), error.exit_code)
    except BaseException as error:  # noqa: BLE001 (anything may come out of app code)
        summary = f"{type(error).__name__}: {error}\n"
        text = summary + "".join(traceback.format_exception(error))
        return post.leave(text, ExitCode.WORKER_BOOT_ERROR)
    gc.collect()
    gc.freeze()
    version = platform.python_version()
    post.say(server, threads=_threads(), python=version, kind=kind, unfit=unfit)
    return _fork_workers(release, post, server, app)


def _threads() -> list[str]:
    """The names of those that no child would have."""
    return [one.name for one in threading.enumerate() if one is not threading.main_thread()]


def _fork_workers(release: Release, post: Post, server: Server, app: object) -> int:
    """Carry out orders until the arbiter lets go of us; return the exit status."""
    while True:
        message, fds, _, _ = socket.recv_fds(post.channel, MOST_BYTES, 2)
        if not message:
            return ExitCode.CLEAN
        order = json.loads(message)
        try:
            process.fork_orphan(partial(_be_worker, release, post, server, order, fds, app))
        except OSError as error:
            post.say(server, refused=order["age"], reason=f"cannot fork: {error.strerror}")
        for fd in fds:
            os.close(fd)


def title(release: Release) -> str:
    """What ps(1) shows of a mold."""
    return f"prefork-sd: mold [{release.cfg.proc_name or release.app.name}]"


def _be_worker(
    release: Release,
    post: Post,
    server: Server,
    order: dict[str, int],
    fds: list[int],
    app: object,
) -> int:
    """In a child of a mold: live as that worker, with the app if it is imported already."""
    post.channel.close()
    post.words.close()
    gc.collect()  # finds nothing: but from now on, full collections reckon by what is not frozen
    slot = server.scoreboard.slot(order["slot"])
    worker = release.worker(server, post.generation, order["age"], slot, LastWords(fds[0]))
    worker.group = server.groups.of(f"{cgroups.WORKER}{worker.age}")
    worker.wsgi = app
    for fd in fds[1:]:
        worker.refork_at = release.cfg.refork_after
        worker.refork = partial(_refork, release, server, worker, socket.socket(fileno=fd))
    return worker.init_process()


def _refork(release: Release, server: Server, worker: Worker, channel: socket.socket) -> None:
    """In a worker that has warmed up: fork the mold of those that come after it."""
    post = Post(worker.generation, channel, LastWords(), preload=True)
    with suppress(OSError):  # another worker has done it already
        post.say(server)
        try:
            if threads := _threads():
                post.say(server, unfit=f"worker {worker.pid} has threads ({', '.join(threads)})")
            else:
                process.fork_orphan(partial(_be_next_mold, release, post, server, worker))
        except OSError as error:
            post.say(server, unfit=f"worker {worker.pid} cannot fork: {error.strerror}")
    channel.close()
    post.words.close()


def _be_next_mold(release: Release, post: Post, server: Server, worker: Worker) -> int:
    """The life of a mold that was a worker before it was forked; return the exit status."""
    worker.abandon()
    if server.groups.root is not None:
        with suppress(OSError):
            cgroups.join(server.groups.root / cgroups.ARBITER)
    faulthandler.enable(file=post.words.fd, all_threads=True)
    process.die_with_parent(server.pid, signal.SIGTERM)
    process.set_title(title(release))
    gc.collect()
    gc.freeze()
    about = {"threads": [], "python": "", "kind": "", "pid": os.getpid(), "origin": worker.pid}
    with suppress(OSError):  # the arbiter has let go of the generation
        post.say(server, [post.words.fd], **about)
        return _fork_workers(release, post, server, worker.wsgi)
    return ExitCode.CLEAN
