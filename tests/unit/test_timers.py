"""The deadlines of connections: nothing expires early, and nothing is forgotten."""

from dataclasses import dataclass
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from prefork_sd.workers.timers import Timers


@dataclass(eq=False)
class Item:
    name: str = ""
    deadline: float = inf
    filed: int = 0


def expired(timers: Timers, now: float) -> list[str]:
    return sorted(item.name for item in timers.expired(now) if isinstance(item, Item))


def test_what_is_due_is_taken_out_once() -> None:
    timers, item = Timers(), Item("a")
    timers.set(item, 10.2)
    assert expired(timers, 10.1) == []
    assert expired(timers, timers.next()) == ["a"]
    assert expired(timers, 99) == []
    assert timers.next() == inf


def test_nothing_expires_before_its_deadline_and_all_within_a_second() -> None:
    timers = Timers()
    timers.set(Item("a"), 10.9)
    assert 10.9 <= timers.next() <= 11.9


def test_a_deadline_that_moves_later_is_filed_again_when_its_bucket_is_due() -> None:
    timers, item = Timers(), Item("a")
    timers.set(item, 10)
    timers.set(item, 20)
    assert timers.next() <= 11
    assert expired(timers, 12) == []
    assert timers.next() == 21
    assert expired(timers, 21) == ["a"]


def test_a_deadline_that_moves_earlier_is_kept() -> None:
    timers, item = Timers(), Item("a")
    timers.set(item, 100)
    timers.set(item, 10)
    assert expired(timers, 11) == ["a"]
    assert expired(timers, 200) == []


def test_to_and_fro_is_one_deadline() -> None:
    timers, item = Timers(), Item("a")
    for deadline in (50, 10, 50, 10, 50):
        timers.set(item, deadline)
        expired(timers, 5)
    assert expired(timers, 20) == []
    assert expired(timers, 51) == ["a"]
    assert expired(timers, 200) == []


def test_what_is_forgotten_never_expires() -> None:
    timers, item = Timers(), Item("a")
    timers.set(item, 10)
    timers.forget(item)
    assert expired(timers, 100) == []


def test_what_expires_may_be_set_again_and_others_forgotten_meanwhile() -> None:
    timers, first, second = Timers(), Item("first"), Item("second")
    timers.set(first, 10)
    timers.set(second, 10)
    seen = []
    for item in timers.expired(11):
        assert isinstance(item, Item)
        seen.append(item.name)
        timers.set(item, 30)
        timers.forget(second if item is first else first)
    assert len(seen) == 1
    assert expired(timers, 31) == seen


STEPS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["set", "forget", "wait"]), st.floats(0, 20)),
    max_size=60,
)


@given(STEPS)
def test_like_a_list_of_deadlines(steps: list[tuple[int, str, float]]) -> None:
    timers, now = Timers(), 100.0
    items = [Item(str(number)) for number in range(5)]
    due: dict[str, float] = {}
    for number, what, amount in steps:
        item = items[number]
        if what == "wait":
            now = max(now + amount, min(timers.next(), now + 20))
            found = expired(timers, now)
            assert all(due.pop(name) <= now for name in found)
            assert not [name for name, deadline in due.items() if int(deadline) + 1 <= now]
        elif what == "set":
            if item.filed == -1:
                item = items[number] = Item(str(number))
            timers.set(item, now + amount)
            due[item.name] = now + amount
        else:
            timers.forget(item)
            due.pop(item.name, None)
