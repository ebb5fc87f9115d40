"""Log records as journald wants them, and as a terminal does.

Everything logs to the logger "prefork_sd"; `setup` decides where that leads.
"""

import errno
import fcntl
import json
import logging
import os
import re
import select
import socket
import sys
import time
from array import array
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import TextIO

SOCKET_PATH = "/run/systemd/journal/socket"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# How long a reader of stderr may keep us waiting, once; seconds.
PATIENCE = 1.0
_FIELD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_OURS = {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "PREFORK_SD_SERVICE"}
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) != "\t"}


class Event(Enum):
    """What can happen. The value is the MESSAGE_ID, which never changes: the catalog has it too."""

    START = "ea06975b50f0468dad4fb35878fa2255"
    READY = "e71141fdc31040e0bbf57b6d37fa4a50"
    RELOAD_BEGIN = "4db57e80963549dba3dc9ff682e59c7f"
    RELOAD_DONE = "272488cd337d48eea3c4e2dedde160d9"
    RELOAD_FAILED = "2329a84df36446628dbaf6189a814c19"
    WORKER_BOOTED = "8f452dcccc37497882724d8fe7821e75"
    WORKER_EXITED = "7cb4072b226a4b66a955ac39822526dc"
    WORKER_KILLED = "ab0cc0b1f94249189cfba8a8893244af"
    WORKER_HUNG = "d8fce84d6dfd47b695be48f03fe8646f"
    WORKER_OOM = "f2516d2f04ab44f18e55bb91e205c362"
    WORKER_BOOT_FAILED = "fdcdbdf8a9e947b38bb96e56bc68bead"
    REQUEST = "aa75d74329c64549ad230bfb23231c4d"
    REQUEST_FAILED = "fd49d7ec5d2742ac91878610402fd71e"
    SLOW_REQUEST = "b9b1dabe02da4fc5bc982eab4cf887ba"
    CONFIG_WARNING = "d20c84942ff04ffaad0e974a2d6bd827"
    REEXEC = "bd3d36cbf4a94802a5642fca75c57b61"
    STOP = "bfdb5f48a84e453a9bf858acc181851f"
    LOST_RECORDS = "094d692d95fe4b4fb453c250707f0c3d"
    HOOK_FAILED = "aa3ff369efde4c99af3074cfe791a688"
    MEMORY_PRESSURE = "d6865788b3914b31a0c2dd17a9029ac1"

    @property
    def label(self) -> str:
        """The name as PREFORK_SD_EVENT has it: "worker-hung"."""
        return self.name.lower().replace("_", "-")


def fields(event: Event | None = None, **named: object) -> dict[str, object]:
    """Make the `extra` of a log call: journal fields, upper-case; None means no such field."""
    extra = {name.upper(): value for name, value in named.items() if value is not None}
    if event is not None:
        extra |= {"MESSAGE_ID": event.value, "PREFORK_SD_EVENT": event.label}
    return extra


def setup(
    environ: Mapping[str, str],
    *,
    level: str,
    service: str,
    stream: TextIO | None = None,
    socket_path: str = SOCKET_PATH,
) -> logging.Logger:
    """Make the logger "prefork_sd" write to the journal, or else to `stream` (standard error).

    To the journal if $JOURNAL_STREAM says that `stream` leads there (systemd.exec(5)) and
    journald can be reached. `stream` has to have a descriptor. PREFORK_SD_LOG=json makes JSON
    lines of what goes to `stream`. Calling it again replaces what the first call did.
    """
    stream = stream or sys.stderr
    handler: logging.Handler
    if leads_to_journal(environ, stream.fileno()) and os.access(socket_path, os.W_OK):
        handler = JournalHandler(service, socket_path)
    elif environ.get("PREFORK_SD_LOG") == "json":
        handler = TextHandler(stream.fileno(), json_line, service)
    else:
        colors = stream.isatty() and not environ.get("NO_COLOR")
        handler = TextHandler(stream.fileno(), color_line if colors else text_line, service)
    logger = logging.getLogger("prefork_sd")
    for former in logger.handlers[:]:
        logger.removeHandler(former)
        former.close()
    logger.propagate = False
    logger.addHandler(handler)
    set_level(level)
    return logger


def is_native(log: logging.Logger) -> bool:
    """Whether a logger's records go to journald as records."""
    return any(isinstance(handler, JournalHandler) for handler in log.handlers)


def set_level(name: str) -> None:
    """Raise ValueError if `name` is not one of `LEVELS`."""
    if name not in LEVELS:
        raise ValueError(f'"{name}" is not a log level; known are {", ".join(LEVELS)}')
    logging.getLogger("prefork_sd").setLevel(LEVELS[name])


def level_of(priority: int) -> str:
    """The level for a priority of syslog(3), 0 (emergency) to 7 (debug)."""
    return "error" if priority <= 3 else {4: "warning", 5: "info", 6: "info"}.get(priority, "debug")


def leads_to_journal(environ: Mapping[str, str], fd: int) -> bool:
    """Whether $JOURNAL_STREAM, "device:inode", is this descriptor (systemd.exec(5))."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class LossyHandler(logging.Handler):
    """Never raises and never waits for long: what cannot be written is counted in `dropped`.

    As soon as records are taken again, one LOST_RECORDS record says how many were lost. A forked
    child starts to count at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self._pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        if self._pid != os.getpid():
            self._pid, self.dropped = os.getpid(), 0
        try:
            if self.dropped:
                self.write(_lost(self.dropped))
                self.dropped = 0
            self.write(record)
        except Exception:  # noqa: BLE001 - an argument's own __str__ may raise anything
            self.dropped += 1

    def write(self, record: logging.LogRecord) -> None:
        """Write one record. Raises OSError if that is not possible now."""
        raise NotImplementedError


class JournalHandler(LossyHandler):
    """Speaks journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), without blocking."""

    def __init__(self, service: str, path: str = SOCKET_PATH) -> None:
        super().__init__()
        self._path = path
        self._head = _field("SYSLOG_IDENTIFIER", service) + _field("PREFORK_SD_SERVICE", service)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def write(self, record: logging.LogRecord) -> None:
        entry = b"".join(
            [
                self._head,
                _field("PRIORITY", _priority(record.levelno)),
                _field("MESSAGE", _message(record)),
                *(_field(name, value) for name, value in _extra(record).items()),
            ]
        )
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_in_memory(entry)

    def _send_in_memory(self, entry: bytes) -> None:
        """Send what is too large for a datagram as a sealed memfd, which journald can trust."""
        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(fd, "wb", buffering=0) as file:  # noqa: PTH123
            file.write(entry)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))]
            self._socket.sendmsg([], rights, 0, self._path)


class TextHandler(LossyHandler):
    """Writes lines to a descriptor.

    It waits once, for `PATIENCE` seconds, for a reader that does not read (a full pipe, a stopped
    terminal), and drops records until there is room again. That holds as well as poll(2) knows:
    two processes that write to one pipe at the same moment may still block each other.
    """

    def __init__(
        self, fd: int, line: Callable[[logging.LogRecord, str], str], service: str = ""
    ) -> None:
        super().__init__()
        self._fd = fd
        self._line = line
        self._service = service
        self._stalled = False
        self._cut = False

    def write(self, record: logging.LogRecord) -> None:
        line = ("\n" if self._cut else "") + self._line(record, self._service) + "\n"
        rest = memoryview(line.encode("utf-8", "backslashreplace"))
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while rest:
            if not poll.poll(0 if self._stalled else int(PATIENCE * 1000)):
                self._stalled = True
                raise BlockingIOError(errno.EAGAIN, "nobody reads")
            # poll(2) promises room for this much.
            rest = rest[os.write(self._fd, rest[: select.PIPE_BUF]) :]
            self._stalled, self._cut = False, bool(rest)


def text_line(record: logging.LogRecord, service: str = "") -> str:
    """A record for people; what follows its first line is indented, so that no text can forge one.

    `service` is not told: on a terminal there is only one.
    """
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
    lines = _message(record).splitlines() or [""]
    text = "\n  ".join(line.translate(_CONTROLS) for line in lines)
    return f"{when} {_LEVEL_NAMES.get(record.levelno, 'INFO'):5} {text}"


def color_line(record: logging.LogRecord, service: str = "") -> str:
    """As `text_line`, for a terminal: warnings are yellow, errors red, debugging is dim."""
    line = text_line(record, service)
    color = _COLORS.get(record.levelno)
    return f"\x1b[{color}m{line}\x1b[0m" if color else line


def json_line(record: logging.LogRecord, service: str = "") -> str:
    """A record for programs: one JSON object with the journal's fields beside the text."""
    head = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
        "level": _LEVEL_NAMES.get(record.levelno, "INFO").lower(),
        "service": service,
        "message": _message(record),
    }
    return json.dumps(head | _extra(record), default=str)


_LEVEL_NAMES = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARN",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "CRIT",
}
_COLORS = {
    logging.DEBUG: "2",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}


def _priority(level: int) -> int:
    """The priority of syslog(3) for a level of logging."""
    if level >= logging.WARNING:
        return 2 if level >= logging.CRITICAL else 3 if level >= logging.ERROR else 4
    return 6 if level >= logging.INFO else 7


def _message(record: logging.LogRecord) -> str:
    """The text and, below it, the traceback: one record tells all."""
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):
        text = f"{record.msg} (its arguments do not fit: {record.args!r})"
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + _FORMATTER.formatException(record.exc_info)
    if record.stack_info:
        text += "\n" + record.stack_info
    return text


_FORMATTER = logging.Formatter()


def _extra(record: logging.LogRecord) -> dict[str, object]:
    """The journal fields of `fields`, and for what is not routine the place in the code."""
    extra = {
        name: value
        for name, value in record.__dict__.items()
        if name.isupper() and _is_field(name) and name not in _OURS
    }
    if record.levelno != logging.INFO and record.pathname:
        extra |= {
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
        }
    return extra


@lru_cache(maxsize=256)
def _is_field(name: str) -> bool:
    return _FIELD.fullmatch(name) is not None


def _field(name: str, value: object) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%b=%b\n" % (name.encode(), data)


def _lost(count: int) -> logging.LogRecord:
    text = f"{count} log records were lost: nobody took them"
    record = logging.LogRecord("prefork_sd", logging.WARNING, __file__, 0, text, None, None)
    record.__dict__.update(fields(Event.LOST_RECORDS, PREFORK_SD_LOST=count))
    return record
