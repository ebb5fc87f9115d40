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
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from prefork_sd import cgroups, process
from prefork_sd.errors import AppImportError, ExitCode, PreforkError
from prefork_sd.release import Release, Server
from prefork_sd.scoreboard import LastWords

MOST_BYTES = 65536
AT_ONCE = 8  # orders on their way at a time, so that the channel never fills


@dataclass(frozen=True, slots=True)
class Order:
    """One worker to be made. Its `age` names it until it has a pid."""

    age: int
    slot: int
    words: int


class Mold:
    """The arbiter's side: what it has asked for, and what it has heard. It never waits."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.pid = 0
        self.ready = False
        self.python = ""  # the version that runs it
        self.kind = ""  # the class of workers that suits the app, once that is imported
        self.leaving = False  # was let go
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
            while message := self.channel.recv(MOST_BYTES):
                said = json.loads(message)
                if "threads" in said:
                    self.ready, self.threads = True, said["threads"]
                    self.python, self.kind = said["python"], said["kind"]
                if "refused" in said:
                    self.refused.append((said["refused"], said["reason"]))
        self._send()
        return self.ready and not before

    def _send(self) -> None:
        while self.ready and self._orders and len(self._under_way) < AT_ONCE:
            order = self._orders[0]
            message = json.dumps({"age": order.age, "slot": order.slot}).encode()
            try:
                socket.send_fds(self.channel, [message], [order.words])
            except OSError:  # it is about to die: then `bury` deals with the orders
                return
            self._under_way.add(order.age)
            self._orders.popleft()

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

    def say(self, server: Server, **what: object) -> None:
        """Tell the arbiter."""
        self.channel.send(json.dumps(what).encode())
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
    app, kind = None, ""
    try:
        process.become(release.cfg.user, release.cfg.group)
        process.die_with_parent(server.pid, signal.SIGTERM)  # a change of user clears it
        if post.preload:
            release.app.prepare()
            app = release.app.wsgi()
            suited = release.worker_class.suited(app, release.cfg)
            suited.equip(release.cfg)
            kind = suited.__name__
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
    threads = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    post.say(server, threads=threads, python=platform.python_version(), kind=kind)
    while True:
        message, fds, _, _ = socket.recv_fds(post.channel, MOST_BYTES, 1)
        if not message:
            return ExitCode.CLEAN
        order, words = json.loads(message), LastWords(fds[0])
        try:
            process.fork_orphan(partial(_be_worker, release, post, server, order, words, app))
        except OSError as error:
            post.say(server, refused=order["age"], reason=f"cannot fork: {error.strerror}")
        words.close()


def title(release: Release) -> str:
    """What ps(1) shows of a mold."""
    return f"prefork-sd: mold [{release.cfg.proc_name or release.app.name}]"


def _be_worker(
    release: Release,
    post: Post,
    server: Server,
    order: dict[str, int],
    words: LastWords,
    app: object,
) -> int:
    """In a child of a mold: live as that worker, with the app if it is imported already."""
    post.channel.close()
    post.words.close()
    gc.collect()  # finds nothing: but from now on, full collections reckon by what is not frozen
    slot = server.scoreboard.slot(order["slot"])
    worker = release.worker(server, post.generation, order["age"], slot, words)
    worker.group = server.groups.of(f"{cgroups.WORKER}{worker.age}")
    worker.wsgi = app
    return worker.init_process()
