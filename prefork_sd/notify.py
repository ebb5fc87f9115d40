"""What we tell systemd: sd_notify messages as small pure functions, and the one that sends them."""

import re
import socket
from array import array
from collections.abc import Mapping, Sequence

from prefork_sd.errors import ConfigError, Problem

# The system manager drops a longer datagram without a word.
MOST_BYTES = 4096
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)


def one_line(text: str, most: int = 300) -> str:
    """Make `text` fit for a STATUS: one line, printable, valid UTF-8, at most `most` characters.

    A newline would start a field of its own, and systemd drops a text that is not UTF-8.
    """
    encodable = text.encode("utf-8", "replace").decode("utf-8")
    line = " ".join("".join(c if c.isprintable() else " " for c in encodable).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def status(text: str) -> dict[str, str]:
    """The line that `systemctl status` shows."""
    return {"STATUS": one_line(text)}


def ready(text: str) -> dict[str, str]:
    """Start-up or reload is over: requests are served."""
    return {"READY": "1"} | status(text)


def reloading(now: float, text: str) -> dict[str, str]:
    """A reload begins. `now` is CLOCK_MONOTONIC in seconds; systemd wants both in one datagram."""
    return {"RELOADING": "1", "MONOTONIC_USEC": str(int(now * 1_000_000))} | status(text)


def stopping(text: str) -> dict[str, str]:
    """The stop begins. From 259 on no READY is accepted after it."""
    return {"STOPPING": "1"} | status(text)


def watchdog() -> dict[str, str]:
    """The heartbeat that WatchdogSec= waits for."""
    return {"WATCHDOG": "1"}


def extend(seconds: float) -> dict[str, str]:
    """Ask for `seconds` more from now, whatever timeout runs (start, reload or stop)."""
    return {"EXTEND_TIMEOUT_USEC": str(max(1, int(seconds * 1_000_000)))}


def errno(code: int) -> dict[str, str]:
    """What went wrong, errno style. It is sticky: only ERRNO=0 takes it back."""
    return {"ERRNO": str(code)}


def restart_reset() -> dict[str, str]:
    """We have been healthy: the next restart is the first one again (258; ignored before)."""
    return {"RESTART_RESET": "1"}


def watchdog_period(environ: Mapping[str, str], pid: int) -> float:
    """Seconds within which systemd expects a heartbeat; 0.0: it expects none.

    As sd_watchdog_enabled(3): $WATCHDOG_PID, where it is set, has to be ours. What is malformed
    counts as not armed.
    """
    usec = environ.get("WATCHDOG_USEC", "")
    if not _NUMBER.fullmatch(usec) or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    return int(usec) / 1_000_000


class Notifier:
    """Sends to $NOTIFY_SOCKET; without one it says nothing.

    `lost` counts the messages that could not be sent. Nothing here blocks or raises once the
    object exists, so a caller for whom a message matters (READY=1) sends it again on False.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raise ConfigError when $NOTIFY_SOCKET is neither a path nor "@" and a name."""
        self.lost = 0
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    @property
    def enabled(self) -> bool:
        return self._socket is not None

    def send(self, *messages: Mapping[str, str], fds: Sequence[int] = ()) -> bool:
        """Send `messages` as one datagram; True if it left. Later ones win over earlier ones.

        `fds` ride along for the file descriptor store (FDSTORE=1, FDNAME=).
        """
        if self._socket is None:
            return False
        fields: dict[str, str] = {}
        for message in messages:
            fields.update(message)
        try:
            data = "\n".join(f"{name}={one_line(value)}" for name, value in fields.items()).encode()
            if len(data) <= MOST_BYTES:
                # The address each time: a service manager that starts anew binds a new socket.
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
                self._socket.sendmsg([data], rights, 0, self._address)
                return True
        except (OSError, ValueError):
            pass
        self.lost += 1
        return False

    def close(self) -> None:
        """Say nothing from now on: what a child does with the one it inherits."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _address(value: str) -> str:
    if value and (value[0] not in "/@" or len(value) < 2 or "\0" in value):
        raise ConfigError(
            Problem(
                f'{value!r} is not a notify socket: it is a path ("/run/systemd/notify") or '
                'an abstract name ("@name")',
                key="NOTIFY_SOCKET",
            )
        )
    if len(value.encode("utf-8", "surrogateescape")) > 107:
        raise ConfigError(Problem("is longer than 107 bytes", key="NOTIFY_SOCKET"))
    return "\0" + value[1:] if value.startswith("@") else value
