"""The mold: a process that imports the app once and forks a generation's workers from it.

With `preload_app` the arbiter itself stays free of app code and can always reload: a new
generation has a new mold. The workers of a mold are its grandchildren; the process in between
leaves at once, so that the kernel hands them to the arbiter, which is their subreaper (prctl(2)).
"""

import faulthandler
import gc
import json
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefork_sd import process
from prefork_sd.errors import AppImportError, ExitCode, PreforkError
from prefork_sd.release import Release
from prefork_sd.scoreboard import LastWords

MOST_BYTES = 65536
AT_ONCE = 8  # orders on their way at a time, so that the channel never fills

Cast = Callable[[int, int, LastWords, Any], int]  # age, slot, last words, app: be that worker


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
                self.ready = self.ready or "threads" in said
                self.threads = said.get("threads", self.threads)
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


def be_mold(
    release: Release, mold: Mold, cast: Cast, arbiter: int, wake: Callable[[], None]
) -> int:
    """The mold's life, in its process; return the exit status."""
    mold.channel.close()
    faulthandler.enable(file=mold.words.fd, all_threads=True)
    process.die_with_parent(arbiter, signal.SIGTERM)
    process.set_title(f"prefork-sd: mold [{release.cfg.proc_name or release.app.name}]")
    try:
        process.become(release.cfg.user, release.cfg.group)
        process.die_with_parent(arbiter, signal.SIGTERM)  # a change of user clears it
        release.app.prepare()
        app = release.app.wsgi()
        release.worker_class.suited(app, release.cfg).equip(release.cfg)
    except AppImportError as error:
        return _leave(mold, f"{error}\n{error.details}", error.exit_code)
    except PreforkError as error:
        return _leave(mold, str(error), error.exit_code)
    except BaseException as error:  # noqa: BLE001 (anything may come out of app code)
        summary = f"{type(error).__name__}: {error}\n"
        text = summary + "".join(traceback.format_exception(error))
        return _leave(mold, text, ExitCode.WORKER_BOOT_ERROR)
    gc.collect()
    gc.freeze()
    threads = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    _say(mold, {"threads": threads}, wake)
    while True:
        message, fds, _, _ = socket.recv_fds(mold.theirs, MOST_BYTES, 1)
        if not message:
            return ExitCode.CLEAN
        order, words = json.loads(message), LastWords(fds[0])
        try:
            process.fork_orphan(partial(_be_worker, mold, cast, order, words, app))
        except OSError as error:
            reason = f"cannot fork: {error.strerror}"
            _say(mold, {"refused": order["age"], "reason": reason}, wake)
        words.close()


def _be_worker(mold: Mold, cast: Cast, order: dict[str, int], words: LastWords, app: object) -> int:
    mold.theirs.close()
    mold.words.close()
    gc.collect()  # finds nothing: but from now on, full collections reckon by what is not frozen
    return cast(order["age"], order["slot"], words, app)


def _say(mold: Mold, what: dict[str, object], wake: Callable[[], None]) -> None:
    mold.theirs.send(json.dumps(what).encode())
    wake()


def _leave(mold: Mold, text: str, status: int) -> int:
    mold.words.write(text)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return status
