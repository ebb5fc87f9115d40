"""The bounds of a worker's life: each one's are a little different."""

from math import inf

import pytest

from prefork_sd.config import Config
from prefork_sd.workers import wear
from prefork_sd.workers.wear import EVERY, Wear

NOW = 1000.0


def test_without_bounds_nothing_wears_out() -> None:
    one = Wear(Config(), NOW)
    assert one.none
    assert one.until == inf
    assert not any(one.worn(requests) for requests in range(1, 1000))


def test_requests_with_jitter() -> None:
    cfg = Config(max_requests=100, max_requests_jitter=20)
    ends = set()
    for _ in range(200):
        one = Wear(cfg, NOW)
        worn = [requests for requests in range(1, 1000) if one.worn(requests)]
        assert len(worn) == 1  # it asks once
        ends.add(worn[0])
    assert min(ends) >= 100
    assert max(ends) <= 120
    assert len(ends) > 5


def test_lifetimes_differ() -> None:
    ends = [Wear(Config(max_lifetime=100.0), NOW).until for _ in range(200)]
    assert min(ends) >= NOW + 90
    assert max(ends) <= NOW + 110
    assert len(set(ends)) == 200


def test_memory_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def rss() -> int:
        looks.append(1)
        return 2_000_000

    monkeypatch.setattr(wear, "rss", rss)
    one = Wear(Config(max_rss=1_000_000), NOW)
    worn = [requests for requests in range(1, 3 * EVERY + 1) if one.worn(requests)]
    assert worn == [EVERY, 2 * EVERY, 3 * EVERY]
    assert len(looks) == 3


def test_many_requests_may_be_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Wear(Config(max_requests=100), NOW)
    assert [one.worn(requests) for requests in (50, 99, 149, 199)] == [False, False, True, False]
    monkeypatch.setattr(wear, "rss", lambda: 2_000_000)
    one = Wear(Config(max_rss=1_000_000), NOW)
    assert [one.worn(requests) for requests in (50, 100, 130, 199)] == [False, True, False, True]
