"""The app's records keep their level and gain the request; its own handlers stay."""

import io
import logging
import sys
from dataclasses import dataclass

import pytest

from prefork_sd import applog
from prefork_sd.journal import JournalHandler

WORKER = {"PREFORK_SD_WORKER_PID": 7}


@dataclass
class Request:
    id: str
    method: str
    path: str


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """A root logger of its own: pytest has its handlers at the real one."""
    root = logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logging, "root", root)
    return root


def adopt() -> list[logging.Handler]:
    """What the root logger has afterwards, but for what pytest has put there."""
    strangers = [one for one in logging.root.handlers if type(one).__module__.startswith("_pytest")]
    for one in strangers:
        logging.root.removeHandler(one)
    applog.adopt("shop", WORKER)
    return logging.root.handlers


def told(handler: logging.Handler, logger: str = "shop") -> dict[str, object]:
    record = logging.LogRecord(logger, logging.ERROR, __file__, 1, "text", None, None)
    assert handler.filter(record)
    return record.__dict__


def test_what_goes_to_standard_error_goes_to_the_journal() -> None:
    plain = logging.StreamHandler(sys.stderr)
    plain.setLevel(logging.INFO)
    logging.root.addHandler(plain)
    (handler,) = adopt()
    assert isinstance(handler, JournalHandler)
    assert handler.level == logging.INFO


def test_other_handlers_stay() -> None:
    elsewhere = logging.StreamHandler(io.StringIO())
    logging.root.addHandler(elsewhere)
    assert adopt() == [elsewhere]


def test_an_app_that_has_set_up_nothing_is_heard_from_warnings_on() -> None:
    (handler,) = adopt()
    assert isinstance(handler, JournalHandler)
    assert handler.level == logging.WARNING


def test_a_logger_of_the_app_is_adopted_too() -> None:
    logger = logging.getLogger("test_applog.shop")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    adopt()
    (handler,) = logger.handlers
    logger.removeHandler(handler)
    assert isinstance(handler, JournalHandler)


def test_a_record_tells_the_worker_and_the_request() -> None:
    (handler,) = adopt()
    assert "HTTP_PATH" not in told(handler)
    token = applog.REQUEST.set(Request("ab-1", "GET", "/x"))
    fields = told(handler)
    applog.REQUEST.reset(token)
    assert fields["PREFORK_SD_WORKER_PID"] == 7
    assert fields["PREFORK_SD_REQUEST_ID"] == "ab-1"
    assert (fields["HTTP_METHOD"], fields["HTTP_PATH"]) == ("GET", "/x")
    assert fields["LOGGER"] == "shop"
