"""Starting programs of ours as systemd starts a service, and hearing of their end."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FIRST_FD = 3
# systemd starts a service in "/", and LISTEN_PID is the pid of the program itself
AS_SYSTEMD = 'cd / && export LISTEN_PID=$$ WATCHDOG_PID=$$ && exec "$@"'
PREFORK_SD = (sys.executable, "-P", "-m", "prefork_sd")


@dataclass(slots=True)
class Program:
    """A client program of ours that runs beside the service, like `prefork-sd reload`."""

    pid: int
    output: int
    text: str = ""
    status: int | None = None

    def ended(self) -> bool:
        """Take what it printed; True when it has ended, and `status` is known."""
        if self.status is None:
            with contextlib.suppress(BlockingIOError):
                while data := os.read(self.output, 65536):
                    self.text += data.decode()
                os.close(self.output)
                self.output = -1
                self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status is not None


def start(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    fds: Sequence[int] = (),
    within: Sequence[str] = (),
) -> tuple[int, int]:
    """Run `prefork-sd ARGUMENTS` in a session of its own, with `fds` as descriptors 3, 4, ...

    `within` is a command that runs it, like unshare(1).

    Return its pid, and a descriptor from which all that it prints can be read without waiting.
    """
    output, log = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(output, False)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (*fds, log, log)]
    os.close(log)
    places = (*range(FIRST_FD, FIRST_FD + len(fds)), 1, 2)
    actions = [(os.POSIX_SPAWN_DUP2, fd, place) for fd, place in zip(high, places, strict=True)]
    argv = ["/bin/sh", "-c", AS_SYSTEMD, "sh", *within, *PREFORK_SD, *arguments]
    try:
        pid = os.posix_spawn("/bin/sh", argv, environ, file_actions=actions, setsid=True)
    finally:
        for fd in high:
            os.close(fd)
    return pid, output
