"""File descriptors that come from systemd, or from our former image, and those we hand on."""

import fcntl
import os
import socket
import stat
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field

from systemd.daemon import listen_fds_with_names

from prefork_sd.errors import ConfigError, Problem

FIRST_FD = 3
LISTENER_NAMES = ("http", "https", "status")
OWN = "own-"  # how the names of listeners begin that we had bound ourselves, and systemd has kept
CONTROL = "control"  # the listener of the control socket, from our former image
# LISTEN_PIDFDID (systemd 259) says once more for whom the descriptors are.
VARIABLES = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID")


@dataclass(slots=True)
class Inherited:
    """What we were started with. Only names count: the order changes at a daemon-reload.

    `listeners` are (name, fd) of listening stream sockets, `memory` memfds, pipes and the control
    socket by name, `own` listeners that we had bound ourselves in a former life, by name.
    `warnings` has a sentence for each descriptor that nobody here knows; it is closed by then.
    """

    listeners: list[tuple[str, int]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def inherited(environ: MutableMapping[str, str], pid: int) -> Inherited:
    """Take what LISTEN_FDS describes (sd_listen_fds(3)) and remove LISTEN_* from `environ`.

    `environ` is `os.environ`: systemd's library reads the environment of the process itself.
    Descriptors arrive blocking and without close-on-exec; both are set here.

    Raises ConfigError if the variables make no sense, or if what has the name of a listener is
    not a listening stream socket.
    """
    ours = environ.get("LISTEN_PID") == str(pid)
    try:
        names: dict[int, str] = listen_fds_with_names() if ours else {}
    except OSError as error:
        given = ", ".join(f"{key}={environ[key]}" for key in VARIABLES if key in environ)
        raise _problem(f"cannot take the descriptors from systemd: {error} ({given})") from error
    finally:
        for variable in VARIABLES:
            environ.pop(variable, None)
    result = Inherited()
    for fd, name in names.items():
        _sort_in(result, name, fd)
    return result


def _sort_in(result: Inherited, name: str, fd: int) -> None:
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise _problem(f'descriptor {fd} ("{name}") from systemd: {error.strerror}') from error
    os.set_inheritable(fd, False)
    os.set_blocking(fd, False)
    if name in LISTENER_NAMES:
        if reason := _not_a_listener(fd, mode):
            raise _problem(
                f'descriptor {fd} from systemd is named "{name}" but {reason}: '
                "in the .socket unit use ListenStream= with Accept=no"
            )
        result.listeners.append((name, fd))
    elif name.startswith(OWN) and name not in result.own and not _not_a_listener(fd, mode):
        result.own[name] = fd
    elif _is_memory(name, fd, mode) and name not in result.memory:
        result.memory[name] = fd
    else:
        result.warnings.append(_unknown(name, fd, mode, result))
        os.close(fd)


def _is_memory(name: str, fd: int, mode: int) -> bool:
    if stat.S_ISSOCK(mode):
        return name == CONTROL and not _not_a_listener(fd, mode)
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode)


def _not_a_listener(fd: int, mode: int) -> str:
    if not stat.S_ISSOCK(mode):
        return "is not a socket"
    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
            return f"is a socket of the family {sock.family!r}"
        if sock.type != socket.SOCK_STREAM:
            return "is not a stream socket"
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "does not listen"
    return ""


def _unknown(name: str, fd: int, mode: int, result: Inherited) -> str:
    if name in result.memory:
        return f'systemd gave "{name}" twice; descriptor {fd} is closed'
    if stat.S_ISSOCK(mode) and not _not_a_listener(fd, mode):
        return (
            f'systemd gave a listener named "{name}", which is closed: only "http", "https" and '
            '"status" are known; write FileDescriptorName=http in its .socket unit'
        )
    return f'systemd gave descriptor {fd} named "{name}", which nobody here knows; it is closed'


def hand_on(
    fds: Sequence[tuple[str, int]], environ: MutableMapping[str, str], pid: int
) -> Callable[[], None]:
    """Prepare an exec in place: `fds` become descriptors 3, 4, ... and LISTEN_* tells of them.

    The new image finds them with `inherited`, as if systemd had started it. What had these
    numbers is kept aside (close-on-exec), and the function that is returned puts it back:
    call it when the exec failed.
    """
    for name, _ in fds:
        if not name or ":" in name or not (name.isascii() and name.isprintable()):
            raise ValueError(f"{name!r} cannot be the name of a descriptor")
    above = FIRST_FD + len(fds)
    numbers = range(FIRST_FD, above)
    # All of them out of the way first: a target may be the source of a later one.
    sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for _, fd in fds]
    aside = {number: _aside(number, above) for number in numbers}
    for source, number in zip(sources, numbers, strict=True):
        os.dup2(source, number, inheritable=True)
        os.close(source)
    before = {variable: environ.pop(variable, None) for variable in VARIABLES}
    environ["LISTEN_FDS"] = str(len(fds))
    environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in fds)
    environ["LISTEN_PID"] = str(pid)

    def undo() -> None:
        for number, kept in aside.items():
            if kept is None:
                os.close(number)
            else:
                copy, inheritable = kept
                os.dup2(copy, number, inheritable=inheritable)
                os.close(copy)
        for variable, value in before.items():
            environ.pop(variable, None)
            if value is not None:
                environ[variable] = value

    return undo


def _aside(number: int, above: int) -> tuple[int, bool] | None:
    try:
        copy = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, above)
    except OSError:
        return None
    return copy, os.get_inheritable(number)


def _problem(text: str) -> ConfigError:
    return ConfigError(Problem(text, key="LISTEN_FDS"))
