"""What workers write and the arbiter reads, in real shared memory."""

import faulthandler
import os
from collections.abc import Iterator
from contextlib import closing
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_sd.process import Processes
from prefork_sd.scoreboard import (
    BOOTED,
    DRAINING,
    HUNG,
    LANES,
    LINE,
    SLOTS,
    TICK,
    TIRED,
    LastWords,
    Scoreboard,
    Served,
    Slot,
)


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    with closing(Scoreboard()) as board:
        yield board


@pytest.fixture
def slot(board: Scoreboard) -> Slot:
    return board.take()


def test_a_child_writes_what_its_parent_reads(slot: Slot) -> None:

    def live() -> int:
        slot.introduce(os.getpid(), 7)
        slot.promise(1000.0)
        for status in (200, 200, 500):
            slot.observe(status, 0.1, 100)
        slot.publish()
        slot.begin(2, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", 12.5)
        slot.raise_flag(BOOTED)
        return 0

    pid = Processes().fork(live)
    os.waitpid(pid, 0)
    assert (slot.pid, slot.generation, slot.counters) == (pid, 7, (3, 1, 300))
    assert slot.booted
    [request] = slot.in_hand()
    assert (request.line, request.since) == ("GET /a HTTP/1.1", 12.5)
    assert slot.occupied(2)
    assert not slot.occupied(1)


def test_a_new_slot_is_empty_though_it_was_used_before(board: Scoreboard) -> None:
    slot = board.take()
    slot.reserve(9)
    slot.introduce(1, 2)
    slot.promise(5.0)
    slot.observe(500, 0.1, 3)
    slot.publish()
    for flag in (BOOTED, DRAINING, TIRED, HUNG):
        slot.raise_flag(flag)
    for lane in (0, LANES - 1):
        slot.begin(lane, b"GET / HTTP/1.1\r\n", 1.0)
    index = slot.index
    board.give_back(slot)
    again = board.take()
    assert again.index == index
    assert (again.pid, again.generation, again.age, again.counters) == (0, 0, 0, (0, 0, 0))
    assert {again.booted, again.draining, again.tired, again.hung} == {False}
    assert again.deadline == inf
    assert again.in_hand() == []


def test_slots_do_not_touch_each_other(board: Scoreboard) -> None:
    first, second = board.take(), board.take()
    first.begin(LANES - 1, b"x" * 1000, 1.0)
    first.observe(599, 1e300, 2**63)
    first.publish()
    first.raise_flag(HUNG)
    assert second.in_hand() == []
    assert second.counters == (0, 0, 0)
    assert not second.hung


def test_there_are_only_so_many_slots(board: Scoreboard) -> None:
    slots = [board.take() for _ in range(SLOTS)]
    with pytest.raises(OverflowError, match=str(SLOTS)):
        board.take()
    board.give_back(slots.pop())
    assert board.take()


def test_flags_add_up(slot: Slot) -> None:
    slot.raise_flag(BOOTED)
    slot.raise_flag(TIRED)
    assert slot.booted
    assert slot.tired
    assert not slot.draining
    assert not slot.hung


@given(st.floats(min_value=0, max_value=2**28 - 1))
def test_a_promise_is_never_read_as_an_earlier_one(deadline: float) -> None:
    with closing(Scoreboard()) as board:
        slot = board.take()
    slot.promise(deadline)
    assert deadline <= slot.deadline <= deadline + 1 / TICK


def test_no_promise_is_never_late(slot: Slot) -> None:
    slot.promise(1.0)
    slot.promise(inf)
    assert slot.deadline == inf


def test_a_long_request_line_is_cut(slot: Slot) -> None:
    slot.begin(0, b"GET /" + b"x" * 1000 + b" HTTP/1.1\r\n", 1.0)
    [request] = slot.in_hand()
    assert len(request.line) == LINE
    assert request.path.startswith("/xxx")


def test_a_shorter_line_has_nothing_of_the_longer_one_before(slot: Slot) -> None:
    slot.begin(0, b"GET /long-and-secret HTTP/1.1\r\n", 1.0)
    slot.end(0)
    slot.begin(0, b"GET / HTTP/1.1\r\n", 2.0)
    assert [request.line for request in slot.in_hand()] == ["GET / HTTP/1.1"]


def test_requests_in_hand_come_oldest_first_and_without_their_query(slot: Slot) -> None:
    slot.begin(0, b"POST /second?token=secret HTTP/1.1\r\n", 20.0)
    slot.begin(5, b"GET /first HTTP/1.1\r\n", 10.0)
    assert [(one.method, one.path) for one in slot.in_hand()] == [
        ("GET", "/first"),
        ("POST", "/second"),
    ]


def test_a_torn_line_is_no_error(slot: Slot) -> None:
    slot.begin(0, b"\xff\xfe", 1.0)
    [request] = slot.in_hand()
    assert (request.method, request.path) == ("\xff\xfe", "")


def test_another_process_takes_the_board_over_by_its_descriptor(board: Scoreboard) -> None:
    slot = board.take()
    slot.introduce(42, 3)
    with closing(Scoreboard(os.dup(board.fd))) as heir:
        assert heir.claim(slot.index).pid == 42
        assert heir.take().index != slot.index


def test_a_board_of_another_size_is_not_taken_over() -> None:
    with closing(LastWords()) as words, pytest.raises(ValueError, match="version"):
        Scoreboard(words.fd)


def test_what_the_gone_have_served_still_counts(board: Scoreboard) -> None:
    for _ in range(2):
        slot = board.take()
        slot.reserve(1)
        slot.observe(200, 0.001, 600)
        slot.observe(503, 99.0, 400)
        slot.publish()
        board.bury(slot)
        board.give_back(slot)
    gone = board.gone
    assert (gone.requests, gone.errors, gone.sent) == (4, 2, 2000)
    assert gone.classes == (0, 2, 0, 0, 2)
    assert (gone.buckets[0], gone.buckets[-1], sum(gone.buckets)) == (2, 2, 4)
    assert gone.seconds == pytest.approx(198.002)
    assert Served() + gone == gone


def test_after_a_crash_all_are_gone_and_counted(board: Scoreboard) -> None:
    for age in (1, 2):
        slot = board.take()
        slot.reserve(age)
        slot.observe(200, 0.1, 0)
        slot.publish()
    with closing(Scoreboard(os.dup(board.fd))) as heir:
        heir.bury_all()
        assert heir.gone.requests == 2
        assert heir.take().age == 0


def test_events_are_counted_by_number(board: Scoreboard) -> None:
    board.tick(3)
    board.tick(3)
    assert [board.ticks(number) for number in (2, 3, 4)] == [0, 2, 0]


def test_last_words_of_python_and_of_c() -> None:
    words = LastWords()
    words.write("caf\udce9 \u20ac\n")
    faulthandler.dump_traceback(words.fd)
    text = words.read()
    assert text.startswith("caf\\udce9 \u20ac\n")
    assert "test_last_words_of_python_and_of_c" in text
    words.close()


def test_of_long_last_words_the_end_is_read() -> None:
    words = LastWords()
    words.write("x" * 100_000 + "the end")
    text = words.read(100)
    assert len(text) == 100
    assert text.endswith("xthe end")
    words.close()
