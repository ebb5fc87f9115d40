"""What the app logs and prints: kept as the app's, and told which request it belongs to."""

import io
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import BinaryIO, Protocol, TextIO

from prefork_sd.journal import LEVELS, JournalHandler, level_of

LONGEST = 48 * 1024  # characters of a line that has no end; LineMax= of journald.conf(5)
SERVED = "_served"  # of a record: the request it belongs to, if that is not the one in hand
TRACEBACK = "Traceback (most recent call last):\n"
_PREFIX = re.compile(r"<([0-7])>")  # of a line with a priority: sd-daemon(3)


class Served(Protocol):
    """A request in hand."""

    @property
    def id(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...


REQUEST: ContextVar[Served | None] = ContextVar("prefork_sd_request", default=None)


class Desk:
    """Where a worker puts the request that it has in hand, while nobody may be at another one.

    To set a variable of the context costs several times as much, and says more only where there are
    threads, tasks or greenlets (or a copy of a context that an app runs in a later request).
    """

    request: Served | None = None


DESK = Desk()


def served() -> Served | None:
    """The request that the caller works on."""
    return REQUEST.get() or DESK.request


class _Pending(threading.local):
    """What a thread has printed of a line or of a traceback, and for which request."""

    text = ""
    request: Served | None = None


class Printed(io.TextIOBase):
    """Standard output or error of Python code, for journald: each line is a record.

    What is written at once stays together, and so does a traceback that is printed line by line.
    `file` is the stream itself: programs that the app starts write there, and so does C code.
    """

    def __init__(self, file: TextIO, handler: logging.Handler, level: int) -> None:
        super().__init__()
        self._file = file
        self._handler = handler
        self._level = level
        self._pending = _Pending()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def buffer(self) -> BinaryIO:
        return self._file.buffer

    @property
    def name(self) -> str:
        return self._file.name

    def fileno(self) -> int:
        return self._file.fileno()

    def writable(self) -> bool:
        return True

    def reconfigure(self, **_options: object) -> None:
        """There is nothing to choose."""

    def write(self, text: str) -> int:
        pending, request = self._pending, served()
        if pending.text and pending.request is not request:
            self.flush()
        pending.text, pending.request = pending.text + text, request
        ended = pending.text.endswith("\n") and not _goes_on(pending.text)
        if ended or len(pending.text) > LONGEST:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Put on record what this thread has written, ended or not."""
        pending = self._pending
        text, pending.text = pending.text.rstrip("\n"), ""
        if not text:
            return
        level = self._level
        if prefix := _PREFIX.match(text):
            level, text = LEVELS[level_of(int(prefix[1]))], text[prefix.end() :]
        name = self._file.name.strip("<>")
        record = logging.LogRecord(name, level, "", 0, "%s", (text,), None)
        record.__dict__[SERVED] = pending.request
        self._handler.handle(record)

    def close(self) -> None:
        """The stream is not the app's to close."""
        self.flush()


def _goes_on(text: str) -> bool:
    """Whether that is a traceback whose last line, the exception, is still to come."""
    line = text[text.rstrip("\n").rfind("\n") + 1 :]
    return text.lstrip("\n").startswith(TRACEBACK) and (line == TRACEBACK or line[0] == " ")


def capture(service: str, worker: Mapping[str, object]) -> None:
    """Have what Python code prints go to the journal with the fields of worker and request."""
    handler = _handler(service, logging.NOTSET, [Fields(worker)])
    sys.stdout = Printed(sys.stdout, handler, logging.INFO)
    sys.stderr = Printed(sys.stderr, handler, logging.WARNING)


class Fields(logging.Filter):
    """Adds the worker's and the request's fields to a record that has none of its own."""

    def __init__(self, worker: Mapping[str, object]) -> None:
        super().__init__()
        _WORKER.update(worker)  # also for filters of the worker that it was forked from

    def filter(self, record: logging.LogRecord) -> bool:
        own = record.__dict__
        for name, value in _WORKER.items():
            own.setdefault(name, value)
        request = own.pop(SERVED) if SERVED in own else served()
        if request is not None:
            own.setdefault("PREFORK_SD_REQUEST_ID", request.id)
            own.setdefault("HTTP_METHOD", request.method)
            own.setdefault("HTTP_PATH", request.path)
        own.setdefault("LOGGER", record.name)
        return True


_WORKER: dict[str, object] = {}  # the fields of the worker that this process is


def adopt(service: str, worker: Mapping[str, object]) -> None:
    """Have what the app logs to standard error go to the journal: with its level, in one piece.

    Called when the app is imported and has set up its logging. Only plain stream handlers are
    replaced; levels, filters and every other handler stay as the app wants them.
    """
    fields = Fields(worker)
    streams = (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
    for logger in _loggers():
        for handler in logger.handlers[:]:
            if type(handler) is logging.StreamHandler and handler.stream in streams:
                logger.removeHandler(handler)
                logger.addHandler(_handler(service, handler.level, [*handler.filters, fields]))
    if not logging.root.handlers:  # else Python's last resort writes bare text
        logging.root.addHandler(_handler(service, logging.WARNING, [fields]))


def _handler(service: str, level: int, filters: Iterable[object]) -> JournalHandler:
    handler = JournalHandler(service)
    handler.setLevel(level)
    for one in filters:
        handler.addFilter(one)  # type: ignore[arg-type]
    return handler


def _loggers() -> Iterator[logging.Logger]:
    yield logging.root
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name != "prefork_sd":
            yield logger
