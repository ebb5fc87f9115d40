"""The records of requests: which ones are worth one, and what is in it."""

import logging
from collections.abc import Callable
from math import inf
from traceback import format_exception
from typing import Protocol

from prefork_sd.applog import Served
from prefork_sd.config import Config
from prefork_sd.imports import said
from prefork_sd.journal import Event

ALL, SOME, NONE = "all", "errors", "off"


class Answer(Protocol):
    """What became of a request. `sent` are the bytes of the body, `failure` what the app raised."""

    @property
    def status(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def failure(self) -> BaseException | None: ...


class AccessLog:
    """One record for a request that failed, was slow, or for each if asked; otherwise no cost."""

    def __init__(
        self, cfg: Config, log: logging.Logger, fields: Callable[..., dict[str, object]]
    ) -> None:
        self._log = log
        self._fields = fields
        self.all = cfg.access_log == ALL
        self._slow = cfg.slow_request or inf  # seconds
        # what is worth a record as long as they are asked for: from so many seconds, or this status
        asked = cfg.access_log != NONE
        self.long = self._slow if asked else inf
        self._bad = 500 if asked else inf

    def wants(self, status: int, duration: float, failure: BaseException | None) -> bool:
        """Whether this one is worth a record. What the app raised always is."""
        return self.all or duration >= self.long or status >= self._bad or failure is not None

    def record(
        self,
        remote: str,
        request: Served,
        response: Answer,
        duration: float,
        waited: float | None = None,
    ) -> None:
        """With HTTP_* fields, DURATION_USEC and BYTES, and with what the app raised if it did.

        `waited`: the seconds to judge the app by, if its response may go on for long on purpose.
        """
        failure = response.failure
        slow = (duration if waited is None else waited) >= self._slow
        event = Event.SLOW_REQUEST if slow else Event.REQUEST
        fields = self._fields(
            Event.REQUEST_FAILED if failure else event,
            PREFORK_SD_REQUEST_ID=request.id,
            HTTP_METHOD=request.method,
            HTTP_PATH=request.path,
            HTTP_STATUS=response.status,
            HTTP_REMOTE=remote,
            DURATION_USEC=int(duration * 1e6),
            BYTES=response.sent,
        )
        text = f"{request.method} {request.path} {response.status} in {duration * 1e3:.1f} ms"
        if failure is not None:
            reason = said(failure)
            # one that was never raised has no more to say
            bare = failure.__traceback__ is None and format_exception(failure) == [f"{reason}\n"]
            exc_info = None if bare else failure
            self._log.error("%s: %s", text, reason, exc_info=exc_info, extra=fields)
        else:
            bad = slow or response.status >= 500
            self._log.log(logging.WARNING if bad else logging.INFO, "%s", text, extra=fields)
