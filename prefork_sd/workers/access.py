"""The records of requests: which ones are worth one, and what is in it."""

import logging
from collections.abc import Callable
from math import inf

from prefork_sd.config import Config
from prefork_sd.imports import said
from prefork_sd.journal import Event
from prefork_sd.workers.connection import Request
from prefork_sd.wsgi import Response

ALL, SOME, NONE = "all", "errors", "off"


class AccessLog:
    """One record for a request that failed, was slow, or for each if asked; otherwise no cost."""

    def __init__(
        self, cfg: Config, log: logging.Logger, fields: Callable[..., dict[str, object]]
    ) -> None:
        self._log = log
        self._fields = fields
        self._all = cfg.access_log == ALL
        self._some = cfg.access_log != NONE
        self._slow = cfg.slow_request or inf

    def wants(self, response: Response, duration: float) -> bool:
        """Whether this one is worth a record. What the app raised always is."""
        return (
            self._all
            or response.failure is not None
            or (self._some and (duration >= self._slow or response.status >= 500))
        )

    def record(self, remote: str, request: Request, response: Response, duration: float) -> None:
        """With HTTP_* fields, DURATION_USEC and BYTES, and with what the app raised if it did."""
        head = request.head
        failure, slow = response.failure, duration >= self._slow
        event = Event.SLOW_REQUEST if slow else Event.REQUEST
        fields = self._fields(
            Event.REQUEST_FAILED if failure else event,
            PREFORK_SD_REQUEST_ID=request.id,
            HTTP_METHOD=head.method,
            HTTP_PATH=head.path,
            HTTP_STATUS=response.status,
            HTTP_REMOTE=remote,
            DURATION_USEC=int(duration * 1e6),
            BYTES=response.sent,
        )
        text = f"{head.method} {head.path} {response.status} in {duration * 1e3:.1f} ms"
        if failure is not None:
            text += f": {said(failure)}"
            self._log.error("%s", text, exc_info=failure, extra=fields)
        else:
            bad = slow or response.status >= 500
            self._log.log(logging.WARNING if bad else logging.INFO, "%s", text, extra=fields)
