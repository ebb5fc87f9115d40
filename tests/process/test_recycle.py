"""Workers that have served their share are replaced, and no client notices."""

import pytest

from tests.process.systemd import Systemd


@pytest.mark.parametrize("settings", [{}, {"threads": 2}], ids=["sync", "threads"])
def test_max_requests_loses_no_request(systemd: Systemd, settings: dict[str, int]) -> None:
    systemd.up(workers=2, max_requests=20, max_requests_jitter=5, **settings)
    clients = [systemd.client() for _ in range(4)]
    pids = set()
    for number in range(5000):
        place = number % len(clients)
        answer = clients[place].get()
        assert answer.status == 200
        pids.add(answer.pid)
        if answer.headers.get("Connection") == "close":
            clients[place] = systemd.client()
        if len(pids) >= 8:
            break
    assert len(pids) >= 8
    assert not systemd.all_records(level="error")
    assert not systemd.all_records(level="warn")


def test_without_a_limit_nobody_is_replaced(systemd: Systemd) -> None:
    systemd.up(workers=1)
    client = systemd.client()
    assert len({client.get().pid for _ in range(200)}) == 1
