"""The test owns journald's socket and the far end of stderr."""

import array
import fcntl
import io
import json
import logging
import os
import re
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefork_sd import journal
from prefork_sd.journal import Event, JournalHandler, TextHandler

CATALOG = Path(__file__).parents[2] / "packaging" / "prefork-sd.catalog"

# What the text of an entry may refer to.
KNOWN_FIELDS = {
    "PREFORK_SD_SERVICE",
    "PREFORK_SD_WORKER_PID",
    "PREFORK_SD_WORKER_AGE",
    "PREFORK_SD_GENERATION",
    "PREFORK_SD_EXIT_STATUS",
    "PREFORK_SD_HOOK",
    "PREFORK_SD_LOST",
    "HTTP_METHOD",
    "HTTP_PATH",
    "HTTP_STATUS",
    "DURATION_USEC",
}


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(tmp_path / "journal"))
        yield sock


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """The logger as it was before, afterwards."""
    logger = logging.getLogger("prefork_sd")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:] = []
    logger.setLevel("DEBUG")
    logger.propagate = False
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def handler(journald: socket.socket, log: logging.Logger) -> JournalHandler:
    handler = JournalHandler("blog", journald.getsockname())
    log.addHandler(handler)
    return handler


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def parse(entry: bytes) -> dict[str, str]:
    """Read one entry of the native protocol, as journald does."""
    found: dict[str, str] = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", entry)
            value, end, entry = (
                entry[8 : 8 + length],
                entry[8 + length : 9 + length],
                entry[9 + length :],
            )
            assert end == b"\n"
        assert name.decode() not in found
        found[name.decode()] = value.decode()
    return found


def test_a_record_of_an_event(
    journald: socket.socket, handler: JournalHandler, log: logging.Logger
) -> None:
    log.info(
        "worker %d is ready", 5, extra=journal.fields(Event.WORKER_BOOTED, PREFORK_SD_WORKER_PID=5)
    )
    assert parse(journald.recv(65536)) == {
        "SYSLOG_IDENTIFIER": "blog",
        "PREFORK_SD_SERVICE": "blog",
        "PRIORITY": "6",
        "MESSAGE": "worker 5 is ready",
        "MESSAGE_ID": "8f452dcccc37497882724d8fe7821e75",
        "PREFORK_SD_EVENT": "worker-booted",
        "PREFORK_SD_WORKER_PID": "5",
    }


def test_a_traceback_is_part_of_its_record(
    journald: socket.socket, handler: JournalHandler, log: logging.Logger
) -> None:
    try:
        raise RuntimeError("on\ntwo lines")
    except RuntimeError:
        log.exception("the app failed")
    got = parse(journald.recv(65536))
    assert got["PRIORITY"] == "3"
    assert got["MESSAGE"].startswith("the app failed\nTraceback (most recent call last):\n")
    assert got["MESSAGE"].endswith("RuntimeError: on\ntwo lines")
    assert got["CODE_FILE"] == __file__
    assert got["CODE_FUNC"] == "test_a_traceback_is_part_of_its_record"
    with pytest.raises(BlockingIOError):
        journald.recv(1)


@pytest.mark.parametrize(
    ("level", "priority"),
    [("DEBUG", "7"), ("INFO", "6"), ("WARNING", "4"), ("ERROR", "3"), ("CRITICAL", "2")],
)
def test_priorities(
    journald: socket.socket,
    handler: JournalHandler,
    log: logging.Logger,
    level: str,
    priority: str,
) -> None:
    log.log(getattr(logging, level), "x")
    assert parse(journald.recv(65536))["PRIORITY"] == priority


def test_fields_that_journald_would_refuse_are_left_out(
    journald: socket.socket, handler: JournalHandler, log: logging.Logger
) -> None:
    extra = {
        "lower": 1,
        "_TRUSTED": 2,
        "9X": 3,
        "A" * 65: 4,
        "BAD-NAME": 5,
        "GOOD_1": 6,
        "PRIORITY": 0,
    }
    log.info("x", extra=extra)
    got = parse(journald.recv(65536))
    assert got.keys() == {
        "SYSLOG_IDENTIFIER",
        "PREFORK_SD_SERVICE",
        "PRIORITY",
        "MESSAGE",
        "GOOD_1",
    }
    assert got["PRIORITY"] == "6"


def test_values_of_all_kinds(
    journald: socket.socket, handler: JournalHandler, log: logging.Logger
) -> None:
    extra = journal.fields(none=None, number=1.5, text="a=b", lines="1\n2", raw=b"\0", odd="\udcff")
    log.info("x", extra=extra)
    got = parse(journald.recv(65536))
    assert "NONE" not in got
    assert (got["NUMBER"], got["TEXT"], got["LINES"]) == ("1.5", "a=b", "1\n2")
    assert (got["RAW"], got["ODD"]) == ("\0", "\\udcff")


def test_an_entry_too_large_for_a_datagram_comes_as_a_sealed_memfd(
    journald: socket.socket, handler: JournalHandler, log: logging.Logger
) -> None:
    log.info("x" * 1_000_000)
    data, ancillary, _, _ = journald.recvmsg(65536, socket.CMSG_SPACE(4))
    assert data == b""
    fds = array.array("i")
    fds.frombytes(ancillary[0][2])
    with os.fdopen(fds[0], "rb") as file:
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        assert fcntl.fcntl(file, fcntl.F_GET_SEALS) == seals
        file.seek(0)
        assert parse(file.read())["MESSAGE"] == "x" * 1_000_000
    assert handler.dropped == 0


def test_a_stopped_journald_costs_records_which_are_counted_and_reported(
    journald: socket.socket, handler: JournalHandler, log: logging.Logger
) -> None:
    while not handler.dropped:
        log.info("full")
    log.info("full")
    assert handler.dropped == 2
    while select.select([journald], [], [], 0)[0]:
        assert parse(journald.recv(65536))["MESSAGE"] == "full"
    log.info("again")
    lost = parse(journald.recv(65536))
    assert lost["MESSAGE_ID"] == Event.LOST_RECORDS.value
    assert lost["PREFORK_SD_EVENT"] == "lost-records"
    assert lost["PREFORK_SD_LOST"] == "2"
    assert lost["PRIORITY"] == "4"
    assert parse(journald.recv(65536))["MESSAGE"] == "again"
    assert handler.dropped == 0


def test_a_journald_that_starts_anew_is_found(
    journald: socket.socket, handler: JournalHandler, log: logging.Logger
) -> None:
    path = journald.getsockname()
    Path(path).unlink()
    log.info("nobody there")
    assert handler.dropped == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as successor:
        successor.bind(path)
        log.info("there")
        assert parse(successor.recv(65536))["PREFORK_SD_LOST"] == "1"
        assert parse(successor.recv(65536))["MESSAGE"] == "there"


def test_a_forked_child_logs_and_counts_for_itself(
    journald: socket.socket, handler: JournalHandler, log: logging.Logger
) -> None:
    handler.dropped = 7
    child = os.fork()
    if child == 0:
        try:
            log.info("from the child")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert parse(journald.recv(65536))["MESSAGE"] == "from the child"
    assert handler.dropped == 7


class Spiteful:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_the_handler_never_raises(journald: socket.socket, handler: JournalHandler) -> None:
    """Records as they come; the test runner's own handler does raise on them."""
    handler.handle(record("%d workers", "three"))
    assert "its arguments do not fit: ('three',)" in parse(journald.recv(65536))["MESSAGE"]
    handler.handle(record("%s", Spiteful()))
    assert handler.dropped == 1
    handler.close()
    handler.handle(record("closed"))
    assert handler.dropped == 2


def record(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("prefork_sd", logging.INFO, __file__, 1, text, args, None)


# ---- text


def text_log(log: logging.Logger, fd: int, line: Callable[..., str]) -> TextHandler:
    handler = TextHandler(fd, line, "blog")
    log.addHandler(handler)
    return handler


def test_text_for_people(pipe: tuple[int, int], log: logging.Logger) -> None:
    text_log(log, pipe[1], journal.text_line)
    log.info(
        "listening on %s", "unix:/x", extra=journal.fields(Event.READY, PREFORK_SD_GENERATION=1)
    )
    log.warning("odd")
    first, second = os.read(pipe[0], 65536).decode().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO  listening on unix:/x", first)
    assert second.endswith(" WARN  odd")


def test_no_text_can_forge_a_record(pipe: tuple[int, int], log: logging.Logger) -> None:
    text_log(log, pipe[1], journal.text_line)
    log.info("path /\n2026-01-01 00:00:00 INFO  forged\x1b[2J\x9b\udcff")
    lines = os.read(pipe[0], 65536).decode().splitlines()
    assert lines[1] == "  2026-01-01 00:00:00 INFO  forged\\x1b[2J\\x9b\\udcff"


def test_a_traceback_stands_below_its_line(pipe: tuple[int, int], log: logging.Logger) -> None:
    text_log(log, pipe[1], journal.text_line)
    try:
        raise KeyError("x")
    except KeyError:
        log.exception("failed")
    lines = os.read(pipe[0], 65536).decode().splitlines()
    assert lines[0].endswith("ERROR failed")
    assert lines[1] == "  Traceback (most recent call last):"
    assert lines[-1] == "  KeyError: 'x'"


def test_colors(pipe: tuple[int, int], log: logging.Logger) -> None:
    text_log(log, pipe[1], journal.color_line)
    log.error("bad")
    log.info("good")
    bad, good = os.read(pipe[0], 65536).decode().splitlines()
    assert bad.startswith("\x1b[31m")
    assert bad.endswith("bad\x1b[0m")
    assert "\x1b" not in good


def test_json_lines(pipe: tuple[int, int], log: logging.Logger) -> None:
    text_log(log, pipe[1], journal.json_line)
    log.info("two\nlines", extra=journal.fields(Event.STOP, PREFORK_SD_WORKER_PID=5, ODD={1}))
    (line,) = os.read(pipe[0], 65536).decode().splitlines()
    got = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", got.pop("time"))
    assert got == {
        "level": "info",
        "service": "blog",
        "message": "two\nlines",
        "MESSAGE_ID": Event.STOP.value,
        "PREFORK_SD_EVENT": "stop",
        "PREFORK_SD_WORKER_PID": 5,
        "ODD": "{1}",
    }


def test_a_full_pipe_costs_records_not_the_service(
    pipe: tuple[int, int], log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PATIENCE", 0.01)
    reader, writer = pipe
    handler = text_log(log, writer, journal.text_line)
    for _ in range(200):
        log.info("x" * 1000)
    lost = handler.dropped
    assert 0 < lost < 200
    monkeypatch.setattr(journal, "PATIENCE", 3600)  # nobody waits a second time
    log.info("x")
    assert handler.dropped == lost + 1
    drained = b""
    while select.select([reader], [], [], 0)[0]:
        drained += os.read(reader, 65536)
    assert drained.count(b"\n") == 200 - lost
    log.info("again")
    lines = os.read(reader, 65536).decode().splitlines()
    assert lines[-2].endswith(f"WARN  {lost + 1} log records were lost: nobody took them")
    assert lines[-1].endswith("INFO  again")


def test_a_record_that_was_cut_ends_its_line(
    pipe: tuple[int, int], log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PATIENCE", 0)
    reader, writer = pipe
    handler = text_log(log, writer, journal.text_line)
    log.info("y" * 1_000_000)
    assert handler.dropped == 1
    while select.select([reader], [], [], 0)[0]:
        os.read(reader, 65536)
    log.info("again")
    empty, lost, again = os.read(reader, 65536).decode().splitlines()
    assert empty == ""
    assert "1 log records were lost" in lost
    assert again.endswith("again")


def test_a_reader_that_is_gone(log: logging.Logger) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    handler = text_log(log, writer, journal.text_line)
    log.info("x")
    assert handler.dropped == 1
    os.close(writer)
    log.info("x")
    assert handler.dropped == 2


# ---- setup


def journal_stream(fd: int) -> dict[str, str]:
    status = os.fstat(fd)
    return {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


@pytest.fixture
def stderr(pipe: tuple[int, int]) -> io.TextIOWrapper:
    return open(pipe[1], "w", closefd=False)


def test_setup_finds_the_journal(
    journald: socket.socket, stderr: io.TextIOWrapper, log: logging.Logger
) -> None:
    environ = journal_stream(stderr.fileno())
    path = journald.getsockname()
    got = journal.setup(environ, level="info", service="blog", stream=stderr, socket_path=path)
    assert got is log
    assert not log.propagate
    log.debug("quiet")
    log.info("hello")
    assert parse(journald.recv(65536))["MESSAGE"] == "hello"


@pytest.mark.parametrize("environ", [{}, {"JOURNAL_STREAM": "1:2"}, {"JOURNAL_STREAM": "x"}])
def test_a_stream_that_does_not_lead_to_the_journal_gets_text(
    journald: socket.socket,
    stderr: io.TextIOWrapper,
    pipe: tuple[int, int],
    log: logging.Logger,
    environ: dict[str, str],
) -> None:
    path = journald.getsockname()
    journal.setup(environ, level="info", service="blog", stream=stderr, socket_path=path)
    log.info("hello")
    assert os.read(pipe[0], 65536).endswith(b"INFO  hello\n")


def test_a_journal_that_cannot_be_reached_gets_text(
    stderr: io.TextIOWrapper, pipe: tuple[int, int], log: logging.Logger
) -> None:
    environ = journal_stream(stderr.fileno())
    journal.setup(environ, level="info", service="blog", stream=stderr, socket_path="/no/such")
    log.info("hello")
    assert os.read(pipe[0], 65536).endswith(b"INFO  hello\n")


def test_json_on_demand_and_again_without(
    stderr: io.TextIOWrapper, pipe: tuple[int, int], log: logging.Logger
) -> None:
    journal.setup({"PREFORK_SD_LOG": "json"}, level="info", service="blog", stream=stderr)
    log.info("hello")
    assert json.loads(os.read(pipe[0], 65536))["service"] == "blog"
    journal.setup({}, level="info", service="blog", stream=stderr)
    log.info("hello")
    assert os.read(pipe[0], 65536).endswith(b"INFO  hello\n")


def test_colors_are_for_terminals(log: logging.Logger) -> None:
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal:  # noqa: PTH123
        journal.setup({}, level="info", service="blog", stream=terminal)
        log.warning("odd")
        assert b"\x1b[33m" in os.read(ours, 65536)
        journal.setup({"NO_COLOR": "1"}, level="info", service="blog", stream=terminal)
        log.warning("odd")
        assert b"\x1b" not in os.read(ours, 65536)
    os.close(ours)


def test_levels(log: logging.Logger) -> None:
    for name in journal.LEVELS:
        journal.set_level(name)
        assert log.isEnabledFor(getattr(logging, name.upper()))
        assert not log.isEnabledFor(getattr(logging, name.upper()) - 1)
    with pytest.raises(ValueError, match='"loud" is not a log level; known are debug, info'):
        journal.set_level("loud")
    assert [journal.level_of(priority) for priority in range(8)] == [
        *["error"] * 4,
        "warning",
        "info",
        "info",
        "debug",
    ]


# ---- events and their catalog


def catalog() -> dict[str, str]:
    entries = re.split(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), flags=re.M)[1:]
    return dict(zip(entries[::2], entries[1::2], strict=True))


def test_every_event_has_its_entry_and_every_entry_its_event() -> None:
    assert sorted(catalog()) == sorted(event.value for event in Event)


@pytest.mark.parametrize("event", Event)
def test_the_entry_of(event: Event) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", event.value)
    head, _, text = catalog()[event.value].strip().partition("\n\n")
    keys = [line.partition(": ")[0] for line in head.splitlines()]
    assert keys == ["Subject", "Defined-By", "Documentation"]
    assert "Defined-By: prefork-sd" in head
    assert "man:prefork-sd" in head
    assert len(text) > 40
    assert set(re.findall(r"@([A-Z_]+)@", head + text)) <= KNOWN_FIELDS
    assert "@" not in re.sub(r"@[A-Z_]+@", "", head + text)


def test_labels_are_words_with_dashes() -> None:
    assert Event.WORKER_BOOT_FAILED.label == "worker-boot-failed"
    assert Event.START.label == "start"
