"""The only door to processes: fork, kill, wait, exec, their titles and their parents."""

import ctypes
import errno
import gc
import grp
import os
import pwd
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from prefork_sd import signals
from prefork_sd.errors import ConfigError, ExitCode, PreforkError, Problem

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended, or that it was stopped or continued: waitid(2)."""

    pid: int
    status: int = 0
    signal: int = 0
    core: bool = False
    stopped: bool = False
    continued: bool = False

    @property
    def final(self) -> bool:
        """Whether the process is gone."""
        return not (self.stopped or self.continued)

    def __str__(self) -> str:
        if self.stopped:
            return f"stopped by {signal_name(self.signal)}"
        if self.signal:
            return f"was killed by {signal_name(self.signal)}" + (
                " (core dumped)" if self.core else ""
            )
        return f"exited with status {self.status}"


def signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


class Processes:
    """Children of this process. A test may put a fake in its place."""

    def fork(self, run: Callable[[], int]) -> int:
        """Fork; the child calls `run` and exits with what it returns. Return the child's pid.

        The child starts with default signal dispositions, in a process group of its own, and never
        returns into its parent's frames.
        """
        with signals.blocked():
            pid = os.fork()
            if pid == 0:
                be_child(run)
        return pid

    def kill(self, pid: int, signum: int, *, group: bool = False) -> None:
        """Send a signal to a child, or to its whole process group. A gone one is no error."""
        # its SIGCHLD is on the way; or what it has left running has become another user
        with suppress(ProcessLookupError, PermissionError):
            if group:
                os.killpg(pid, signum)
            else:
                os.kill(pid, signum)

    def reap(self) -> Iterator[Exit]:
        """Every child that ended or stopped since the last call; never waits."""
        flags = os.WEXITED | os.WSTOPPED | os.WCONTINUED | os.WNOHANG
        while True:
            try:
                result = os.waitid(os.P_ALL, 0, flags)
            except ChildProcessError:
                return
            if result is None:
                return
            pid, status = result.si_pid, result.si_status
            match result.si_code:
                case os.CLD_EXITED:
                    yield Exit(pid, status=status)
                case os.CLD_KILLED | os.CLD_DUMPED as code:
                    yield Exit(pid, signal=status, core=code == os.CLD_DUMPED)
                case os.CLD_CONTINUED:
                    yield Exit(pid, signal=status, continued=True)
                case _:
                    yield Exit(pid, signal=status, stopped=True)

    def replace(self, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
        """Become another program with the same pid: execve(2)."""
        os.execve(argv[0], list(argv), dict(environ))


def be_child(run: Callable[[], int]) -> NoReturn:
    """Live as a process of ours: `run` it and exit with what it returns."""
    code: int = ExitCode.WORKER_BOOT_ERROR
    try:
        with suppress(PermissionError):
            os.setpgid(0, 0)
        signals.forget()
        code = run()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:  # noqa: BLE001 (nothing may pass into the parent's frames)
        code = getattr(error, "exit_code", code)
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code & 0xFF)


def fork_orphan(run: Callable[[], int]) -> None:
    """Fork a process for our subreaper: it is handed over before `run` is called in it.

    Returns when that is under way. Raises OSError if it could not be forked.
    """
    gone, held = os.pipe2(os.O_CLOEXEC)
    with signals.blocked():
        between = os.fork()
        if between == 0:
            _fork_again(run, gone, held)
    os.close(gone)
    _, status = os.waitpid(between, 0)
    os.close(held)  # the orphan has its new parent: now it goes on
    if status:
        raise OSError(os.waitstatus_to_exitcode(status), "cannot fork")


def _fork_again(run: Callable[[], int], gone: int, held: int) -> NoReturn:
    """Between a process and its orphan. `gone` reads as ended when somebody has seen us leave."""
    code = errno.EAGAIN
    try:
        if os.fork() == 0:
            os.close(held)
            be_child(partial(_wait_for, gone, run))
        code = 0
    except OSError as error:
        code = error.errno or code
    finally:
        os._exit(code)


def _wait_for(gone: int, run: Callable[[], int]) -> int:
    while os.read(gone, 1):
        pass
    os.close(gone)
    return run()


def close(fds: Iterable[int]) -> None:
    """Close descriptors that this process has got by a fork."""
    for fd in fds:
        os.close(fd)


def become(user: str, group: str) -> None:
    """Take on a user and group for good, unless we are them. Raises PreforkError."""
    if not user:
        return
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(Problem(f"there is no {user}", "user")) from None
    try:
        gid = (
            int(group) if group.isdigit() else grp.getgrnam(group).gr_gid if group else entry.pw_gid
        )
    except KeyError:
        raise ConfigError(Problem(f"there is no {group}", "group")) from None
    if os.geteuid() == entry.pw_uid and os.getegid() == gid:
        return
    try:
        os.initgroups(entry.pw_name, gid)
        os.setgid(gid)
        os.setuid(entry.pw_uid)
    except PermissionError:
        raise PreforkError(
            f"cannot become user {user}: only root may change users, so a reload cannot; "
            "systemctl daemon-reload and systemctl restart can"
        ) from None


def die_with_parent(parent: int, signum: int) -> None:
    """Have the kernel send us `signum` when the parent goes; at once if it has gone already."""
    _prctl(PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)


def allow_files(count: int) -> None:
    """Let this process have so many files open, or as many as its hard limit has: setrlimit(2).

    systemd gives a service a soft limit of 1024, for the sake of select(2): systemd.exec(5).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def become_subreaper(wanted: bool = True) -> None:
    """Adopt the orphans of our descendants from now on, or no more."""
    _prctl(PR_SET_CHILD_SUBREAPER, int(wanted))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "prctl")


def settle_memory() -> None:
    """The app is imported: collections look at what is made from now on, and no more at all of it.

    The next full one would come in the middle of a request, and take as long as hundreds of them.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # finds nothing: but from now on, full ones reckon by what is not frozen


def share_memory() -> None:
    """About to fork: have the collector leave alone what is there, in the child and in us.

    A collection writes into every object that it looks at, and a page once written to is shared
    no more.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def set_title(title: str) -> None:
    """Set what ps(1) shows of this process."""
    try:
        from setproctitle import setproctitle
    except ImportError:  # in an app's own virtual environment
        _overwrite_title(os.fsencode(title))
    else:
        setproctitle(title)


def _overwrite_title(title: bytes) -> None:
    """Write it where the kernel has put our command line, if that is as long: proc_pid_stat(5)."""
    cells = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(cells[45]), int(cells[46])  # arg_start, arg_end
    if start < end:
        ctypes.memmove(start, title.ljust(end - start, b"\0"), end - start - 1)
