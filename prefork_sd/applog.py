"""The app's own log records: kept as the app's, and told which request they belong to."""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Protocol

from prefork_sd.journal import JournalHandler


class Served(Protocol):
    """A request in hand."""

    @property
    def id(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...


REQUEST: ContextVar[Served | None] = ContextVar("prefork_sd_request", default=None)


class Fields(logging.Filter):
    """Adds the worker's and the request's fields to a record that has none of its own."""

    def __init__(self, worker: Mapping[str, object]) -> None:
        super().__init__()
        _WORKER.update(worker)  # also for filters of the worker that it was forked from

    def filter(self, record: logging.LogRecord) -> bool:
        own = record.__dict__
        for name, value in _WORKER.items():
            own.setdefault(name, value)
        if (request := REQUEST.get()) is not None:
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
