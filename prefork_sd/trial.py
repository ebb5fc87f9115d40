"""A trial: a mold that imports the app as a start would, within `boot_timeout`, and is gone again.

Whoever asks has nothing of the app in it afterwards, no thread of it either.
"""

import logging
import os
import select
import signal
from contextlib import suppress
from dataclasses import replace
from functools import partial

from prefork_sd import abroad, parcel
from prefork_sd.abroad import Deputy
from prefork_sd.cgroups import Groups
from prefork_sd.errors import AppImportError, ExitCode
from prefork_sd.loader import Application
from prefork_sd.mold import Mold, Post, be_mold
from prefork_sd.obituary import evidence
from prefork_sd.process import Processes
from prefork_sd.release import Release
from prefork_sd.scoreboard import Scoreboard

KILL_GRACE = 2.0  # seconds for a mold that hangs to leave its stacks


def tried(release: Release, log: logging.Logger) -> Mold:
    """The mold, with what it has said of the app. Waits for it, `boot_timeout` and a little.

    Raises AppImportError with what a start would say, and with the status that it would end with.
    The code of a virtual environment is run as the service's user, if root asks.
    """
    if os.geteuid() != 0 or not release.cfg.venv:
        cfg = replace(release.cfg, user="", group="")
        app = Application(release.app.name, release.app.source, cfg=cfg)
        release = replace(release, app=app)
    wake_read, wake_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    mold, board = Mold(1), Scoreboard()
    post = Post(mold.generation, mold.theirs, mold.words, preload=True)
    server = Deputy(os.getpid(), log, release.app, [], board, Groups(), wake_fd)
    if release.cfg.venv:
        pid = Processes().fork(partial(abroad.depart, release, post, server, parcel.pack()))
    else:
        pid = Processes().fork(partial(be_mold, release, post, server))
    exited = os.pidfd_open(pid)
    try:
        _await(mold, [wake_read, exited], release.cfg.boot_timeout)
        if not mold.ready:
            hangs = not _await(mold, [exited], 0.0)
            if hangs:
                os.kill(pid, signal.SIGABRT)
                _await(mold, [exited], KILL_GRACE)
            raise _late(release, mold) if hangs else _judged(mold.words.read(), pid)
    finally:
        Processes().kill(pid, signal.SIGKILL, group=True)
        os.waitpid(pid, 0)
        for fd in (wake_read, wake_fd, exited):
            os.close(fd)
        board.close()
        mold.close()
    return mold


def _await(mold: Mold, fds: list[int], seconds: float) -> bool:
    """Wait for one of these to become readable, and hear the mold."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    found = poll.poll(seconds * 1000)
    mold.hear()
    return bool(found)


def _late(release: Release, mold: Mold) -> AppImportError:
    allowed = f"boot_timeout: {release.cfg.boot_timeout:g} s"
    return AppImportError(f"the app did not boot in time ({allowed})", evidence(mold.words.read()))


def _judged(words: str, pid: int) -> AppImportError:
    """Why a mold has ended by itself."""
    exited = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if not exited or exited.si_code != os.CLD_EXITED:
        by = f" by {signal.Signals(exited.si_status).name}" if exited else ""
        return AppImportError(f"the app's import was killed{by}", evidence(words))
    summary, _, details = words.partition("\n")
    error = AppImportError(summary or "the app's import ended the process", details)
    if exited.si_status:
        with suppress(ValueError):
            error.exit_code = ExitCode(exited.si_status)
    return error
