"""Several workers before one listener: clients that stay are shared among them."""

from collections import Counter

import pytest

from tests.process.systemd import Systemd

CLIENTS, WORKERS = 64, 4


@pytest.mark.parametrize("settings", [{}, {"threads": 2}], ids=["sync", "threads"])
def test_clients_that_come_all_at_once_are_shared(
    systemd: Systemd, settings: dict[str, int]
) -> None:
    """A fair share is 16: the first to wake up does not take them all, and nobody gets none."""
    systemd.up(workers=WORKERS, **settings)
    clients = [systemd.client().send("/") for _ in range(CLIENTS)]
    share = Counter(client.answer().pid for client in clients)
    assert len(share) == WORKERS
    assert max(share.values()) <= CLIENTS // 2
