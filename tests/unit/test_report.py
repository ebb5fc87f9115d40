"""What a person reads: tables that line up, and durations in two units."""

import pytest

from prefork_sd.report import services, span, table

WORKER = {
    "pid": 7,
    "age": 1,
    "generation": 2,
    "state": "ready",
    "requests": 12345,
    "errors": 6,
    "bytes": 0,
    "rss": 25 << 20,
    "pss": 9 << 20,
    "uptime_usec": 90_000_000,
    "in_hand": [],
}
STATUS = {
    "service": "shop",
    "pid": 1,
    "state": "serving",
    "status": "serving: 2 of 2 workers ready",
    "listeners": ["127.0.0.1:80", "unix:/run/shop.sock"],
    "ready": 2,
    "wanted": 2,
    "requests": 99,
    "errors": 1,
    "workers": [
        WORKER,
        WORKER
        | {
            "pid": 123456,
            "state": "retiring",
            "pss": None,
            "in_hand": [
                {"method": "GET", "path": "/report", "usec": 2_500_000},
                {"method": "PUT", "path": "/x", "usec": 100_000},
            ],
        },
    ],
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (8.9, "8s"),
        (59, "59s"),
        (60, "1m"),
        (725, "12m 5s"),
        (3600, "1h"),
        (3 * 86400 + 4 * 3600 + 59, "3d 4h"),
        (86400 + 5, "1d 5s"),
    ],
)
def test_a_duration_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_service_with_its_workers() -> None:
    head, where, empty, titles, first, second = table(STATUS).splitlines()
    assert head == "shop (1): serving: 2 of 2 workers ready"
    assert where == "listening on 127.0.0.1:80, unix:/run/shop.sock"
    assert empty == ""
    assert first.split() == ["7", "1", "2", "ready", "1m", "30s", "12345", "6", "25M", "9M", "-"]
    assert second.split()[8:10] == ["25M", "-"]
    assert second.endswith("GET /report for 2.5 s, PUT /x for 0.1 s")
    for title, cell in (("PID", "7"), ("REQUESTS", "12345"), ("5XX", "6"), ("RSS", "25M")):
        assert titles.index(title) + len(title) == first.index(cell) + len(cell)  # to the right
    assert titles.index("STATE") == first.index("ready") == second.index("retiring")


def test_a_service_without_workers() -> None:
    assert table(STATUS | {"workers": []}).splitlines()[-1].split()[0] == "PID"


def test_all_services_also_those_that_do_not_answer() -> None:
    titles, first, second = services({"shop": STATUS, "blog": "nobody listens"}).splitlines()
    assert titles.split()[:3] == ["SERVICE", "PID", "STATE"]
    assert first.split()[0] == "blog"
    assert first.endswith("nobody listens")
    assert second.split()[:6] == ["shop", "1", "serving", "2/2", "99", "1"]
    assert second.endswith("serving: 2 of 2 workers ready")
