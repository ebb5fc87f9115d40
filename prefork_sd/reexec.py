"""SIGUSR2: become the newest prefork-sd in place. Same pid, same sockets, the workers stay up.

The new image is started as systemd would start it, with the listeners and what it has to know as
named descriptors; it adopts the workers and rolls them over to what is on disk.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, NoReturn

from prefork_sd import activation, cgroups, journal, keepsake, reloading, signals
from prefork_sd.journal import Event
from prefork_sd.process import Exit
from prefork_sd.reloading import Reload
from prefork_sd.scoreboard import LastWords, Scoreboard

if TYPE_CHECKING:
    from prefork_sd.arbiter import Arbiter

PREFLIGHT = "PREFORK_SD_PREFLIGHT"  # set: check everything that a start needs, and exit
MARGIN = 10.0  # seconds for a pre-flight, beyond `boot_timeout`
MEMORY = "reexec"  # the descriptors that the new image finds, by name
SCOREBOARD, WAKE_READ, WAKE_WRITE, WORDS = "scoreboard", "wake-read", "wake-write", "words-"


@dataclass(slots=True)
class Preflight:
    """A run of the new code that only checks; until it is over we stay what we are."""

    pid: int
    output: LastWords
    deadline: float


def begin(server: "Arbiter") -> None:
    """Let the new code show that it can start. Nothing is touched before it has."""
    if server.preflight or server.stopping:
        return
    output = LastWords()
    try:
        pid = server.processes.fork(partial(_fly, server, output))
    except OSError as error:
        output.close()
        _refuse(server, f"cannot check the new code: {error.strerror}")
        return
    deadline = time.monotonic() + server.cfg.boot_timeout + MARGIN
    server.preflight = Preflight(pid, output, deadline)
    server.reexec_pid = pid


def _fly(server: "Arbiter", output: LastWords) -> NoReturn:
    for fd in (1, 2):
        os.dup2(output.fd, fd)
    private = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "JOURNAL_STREAM")
    environ = {key: value for key, value in os.environ.items() if key not in private}
    os.chdir(server.START_CTX["cwd"])
    server.processes.replace(command(), environ | {PREFLIGHT: "1"})


def command() -> list[str]:
    """How this process was started, as execve(2) wants it."""
    return [sys.executable, *sys.orig_argv[1:]]


def expire(server: "Arbiter", now: float) -> None:
    """A pre-flight that hangs is a failed one."""
    if server.preflight and server.preflight.deadline <= now:
        server.preflight.deadline = inf
        server.processes.kill(server.preflight.pid, signal.SIGKILL, group=True)


def landed(server: "Arbiter", exit: Exit) -> None:
    """The pre-flight is over: become the new image when no reload is under way, or say why not."""
    preflight, server.preflight, server.reexec_pid = server.preflight, None, 0
    if preflight is None:
        return
    said = preflight.output.read()
    preflight.output.close()
    if exit.signal or exit.status:
        _refuse(server, f"the check of the new code {exit}", said)
    else:
        server.reexec_due = True


def _refuse(server: "Arbiter", reason: str, details: str = "") -> None:
    text = f"re-exec refused, everything stays as it is: {reason}\n{details}".strip()
    server.log.error("%s", text, extra=journal.fields(Event.REEXEC))


def become(server: "Arbiter") -> None:
    """Exec. Returns only if that is impossible, with everything as it was."""
    server.reexec_due = False
    server.hooks.pre_exec(server)
    server.log.info("re-exec in place", extra=journal.fields(Event.REEXEC))
    server.herald.reloading("re-exec in place", time.monotonic())
    with signals.blocked():  # what comes from now on stays pending for the new image
        for signum in server.SIG_QUEUE.take():
            os.kill(server.pid, signum)
        memory = os.memfd_create("prefork-sd-reexec", os.MFD_CLOEXEC)
        os.write(memory, json.dumps(_memory(server)).encode())
        server.doors.close_connections()
        undo = activation.hand_on(_descriptors(server, memory), os.environ, server.pid)
        try:
            os.chdir(server.START_CTX["cwd"])
            server.processes.replace(command(), os.environ)
        except OSError as error:
            undo()
            os.close(memory)
            failure = f"cannot exec {command()[0]}: {error.strerror}"
    _refuse(server, failure)
    server.under_way = server.under_way or Reload()
    reloading.conclude(server, failure)


def _memory(server: "Arbiter") -> dict[str, object]:
    """What the new image has to know."""
    pool = server.pool
    return {
        "pool": pool.memory(),
        "slots": {worker.pid: worker.tmp.index for worker in server.WORKERS.values()},
        "age": server.worker_age,
        "winched": server.winched,
        "ours": [listener.ours for listener in [*server.sockets, *server.monitors]],
    }


def _descriptors(server: "Arbiter", memory: int) -> list[tuple[str, int]]:
    """What rides along, by name."""
    listeners = [*server.sockets, *server.monitors]
    fds = [(listener.name, listener.sock.fileno()) for listener in listeners]
    fds += [
        (MEMORY, memory),
        (keepsake.NAME, server.keepsake.fd),
        (SCOREBOARD, server.scoreboard.fd),
        (WAKE_READ, server.SIG_QUEUE.fileno()),
        (WAKE_WRITE, server.SIG_QUEUE.write_fd),
    ]
    if (control := server.doors.control_fd()) >= 0:
        fds.append((activation.CONTROL, control))
    fds += [
        (f"{WORDS}{worker.age}", worker.words.fd)
        for worker in server.WORKERS.values()
        if worker.pid > 0
    ]
    return fds


def adopt(server: "Arbiter", memory: Mapping[str, int]) -> None:
    """In the new image: take over what the old one has left, and begin to roll it over."""
    size = os.fstat(memory[MEMORY]).st_size
    known = json.loads(os.pread(memory[MEMORY], size, 0))
    os.close(memory[MEMORY])
    server.SIG_QUEUE.adopt(memory[WAKE_READ], memory[WAKE_WRITE])
    try:
        scoreboard = Scoreboard(memory[SCOREBOARD])
        server.scoreboard.close()
        server.scoreboard = scoreboard
        readable = True
    except ValueError:  # of another version: its workers are served out blindly
        os.close(memory[SCOREBOARD])
        readable = False
    for listener, ours in zip([*server.sockets, *server.monitors], known["ours"], strict=False):
        listener.claim(ours)
    server.pool.recall(known["pool"])
    server.worker_age, server.winched = known["age"], known["winched"]
    server.herald.ready = True
    for child in server.pool.children.values():
        server.releases.setdefault(child.generation, server.release)
        words = LastWords(memory[f"{WORDS}{child.age}"])
        index = known["slots"][str(child.pid)]
        slot = server.scoreboard.claim(index) if readable else server.scoreboard.blind()
        worker = server.make_worker(child.generation, child.age, slot, words)
        worker.pid = child.pid
        worker.group = server.groups.of(f"{cgroups.WORKER}{worker.age}")
        server.WORKERS[worker.pid] = worker
    server.under_way = Reload()
    fields = journal.fields(Event.REEXEC)
    server.log.info("re-exec: adopted %d workers", len(server.WORKERS), extra=fields)


def inherit(server: "Arbiter", fd: int) -> None:
    """After a restart or a crash: what the former workers have served still counts."""
    try:
        scoreboard = Scoreboard(fd)
    except ValueError:  # of another version
        os.close(fd)
        server.herald.keep(SCOREBOARD, server.scoreboard.fd)
        return
    scoreboard.bury_all()
    server.scoreboard.close()
    server.scoreboard = scoreboard
