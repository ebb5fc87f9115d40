"""The record of a request: told once, with the traceback where there is one."""

import logging
from types import SimpleNamespace

from prefork_sd import journal
from prefork_sd.config import Config
from prefork_sd.journal import text_line
from prefork_sd.workers.access import AccessLog
from tests.unit.stage import Journal


def record(failure: BaseException) -> str:
    """What is put on record of a request that failed so, without its time."""
    log, kept = logging.getLogger("prefork_sd.test"), Journal()
    log.handlers[:], log.propagate = [kept], False
    request = SimpleNamespace(id="1", method="GET", path="/")
    answer = SimpleNamespace(status=500, sent=0, failure=failure)
    access = AccessLog(Config(app="shop:app"), log, journal.fields)
    access.record("127.0.0.1", request, answer, 0.002)
    (told,) = kept.records
    return text_line(told).split(" ", 3)[-1]


def test_a_failure_that_was_never_raised_is_told_in_one_line() -> None:
    told = record(ValueError("2 bytes of 5"))
    assert told == "GET / 500 in 2.0 ms: ValueError: 2 bytes of 5"


def test_what_was_raised_has_its_traceback() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        told = record(error).splitlines()
    assert told[0] == "GET / 500 in 2.0 ms: ValueError: no"
    assert told[1].strip().startswith("Traceback")
    assert told[-1].strip() == "ValueError: no"


def test_what_a_text_of_more_lines_says_is_kept() -> None:
    assert "  first" in record(ValueError("\n  first\nlast"))
