"""What Python code prints under journald: whole lines, whole tracebacks, and whose they are."""

import contextlib
import io
import logging
import sys
import threading
import traceback
from dataclasses import dataclass

import pytest

from prefork_sd.applog import REQUEST, Fields, Printed


@dataclass
class Request:
    id: str
    method: str = "GET"
    path: str = "/x"


class Journal(logging.Handler):
    """What was put on record."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.addFilter(Fields({"PREFORK_SD_WORKER_PID": 7}))

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def ids(self) -> list[object]:
        return [vars(record).get("PREFORK_SD_REQUEST_ID") for record in self.records]


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def out(journal: Journal) -> Printed:
    assert isinstance(sys.__stdout__, io.TextIOWrapper)
    return Printed(sys.__stdout__, journal, logging.INFO)


def test_a_line_is_a_record_however_it_was_put_together(out: Printed, journal: Journal) -> None:
    print("a", 1, "b", file=out)
    out.write("half")
    assert journal.texts == ["a 1 b"]
    print(" and half", file=out)
    print(file=out)  # an empty line says nothing
    assert journal.texts == ["a 1 b", "half and half"]
    assert {record.levelno for record in journal.records} == {logging.INFO}
    assert {record.name for record in journal.records} == {"stdout"}


def test_what_is_written_at_once_stays_together(out: Printed, journal: Journal) -> None:
    print("one\ntwo\n\nthree", file=out)
    assert journal.texts == ["one\ntwo\n\nthree"]


def test_a_traceback_is_one_record(out: Printed, journal: Journal) -> None:
    try:
        raise ValueError("of this")
    except ValueError:
        traceback.print_exc(file=out)
    print("after", file=out)
    told, after = journal.texts
    assert told.startswith("Traceback (most recent call last):\n  File ")
    assert told.endswith("\nValueError: of this")
    assert after == "after"


def test_the_excepthook_writes_one_record(
    out: Printed, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", out)
    try:
        raise KeyError("lost")
    except KeyError as error:
        sys.__excepthook__(KeyError, error, error.__traceback__)
    (told,) = journal.texts
    assert told.endswith("KeyError: 'lost'")


def test_flush_waits_for_no_end_of_line(out: Printed, journal: Journal) -> None:
    print("half", end="", flush=True, file=out)
    out.flush()
    assert journal.texts == ["half"]


def test_a_line_without_an_end_is_cut(out: Printed, journal: Journal) -> None:
    for _ in range(100):
        out.write("x" * 1000)
    assert len(journal.texts) == 2


def test_the_request_is_that_of_the_words(out: Printed, journal: Journal) -> None:
    print("outside", file=out)
    token = REQUEST.set(Request("a-1"))
    out.write("of the first")
    REQUEST.set(Request("a-2"))
    print("of the second", file=out)
    REQUEST.reset(token)
    assert journal.texts == ["outside", "of the first", "of the second"]
    assert journal.ids() == [None, "a-1", "a-2"]
    assert vars(journal.records[1])["HTTP_PATH"] == "/x"
    assert vars(journal.records[1])["PREFORK_SD_WORKER_PID"] == 7


def test_threads_do_not_mix(out: Printed, journal: Journal) -> None:
    out.write("main ")
    thread = threading.Thread(target=print, args=("thread",), kwargs={"file": out})
    thread.start()
    thread.join(10)
    print("main", file=out)
    assert journal.texts == ["thread", "main main"]


@pytest.mark.parametrize(
    ("text", "level", "told"),
    [
        ("<3>it broke", logging.ERROR, "it broke"),
        ("<7>detail", logging.DEBUG, "detail"),
        ("<b>bold</b>", logging.INFO, "<b>bold</b>"),
    ],
)
def test_a_priority_in_front_counts(
    out: Printed, journal: Journal, text: str, level: int, told: str
) -> None:
    print(text, file=out)
    assert journal.texts == [told]
    assert journal.records[0].levelno == level


def test_it_is_a_stream_like_others(out: Printed) -> None:
    assert sys.__stdout__ is not None
    assert out.fileno() == sys.__stdout__.fileno()
    assert out.buffer is sys.__stdout__.buffer
    assert (out.encoding, out.isatty(), out.writable()) == ("utf-8", False, True)
    out.reconfigure(line_buffering=True)
    with contextlib.redirect_stdout(out), contextlib.suppress(io.UnsupportedOperation):
        out.read()
    out.close()
