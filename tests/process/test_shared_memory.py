"""What workers of a mold cost together: their shares (PSS) after many requests."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prefork_sd.pressure import proportional
from tests.process.client import Client
from tests.process.systemd import Systemd

SITE = Path(__file__).with_name("django_site")
PATHS = ("/", "/order", "/admin/login/")
WORKERS = 8
PART = 50  # requests of each worker: what the first ones touch is what there is to touch
BATCH, BATCHES = 400, 25

# what a shop holds in memory: some 20 MB
STOCK = 'STOCK = [{"number": number, "name": f"product {number}"} for number in range(60_000)]\n'


def visit(systemd: Systemd, number: int) -> int:
    """One request by a connection of its own; its status."""
    client = Client.of(systemd.listeners[0][1])
    try:
        return client.send(PATHS[number % len(PATHS)], close=True).answer().status
    finally:
        client.close()


def cost(systemd: Systemd, *, preload: bool) -> int:
    """The memory of the whole service, in bytes, once each worker has served its part."""
    settings = {"app": "storefront.wsgi:application", "preload_app": preload}
    systemd.configure(workers=WORKERS, **settings)
    if systemd.status_code is None:
        systemd.up()
    else:
        systemd.again()
    with ThreadPoolExecutor(WORKERS) as clients:
        for _ in range(BATCHES):
            answers = clients.map(lambda number: visit(systemd, number), range(BATCH))
            assert set(answers) == {200}
            if min(worker["requests"] for worker in systemd.status()["workers"]) >= PART:
                break
    assert min(worker["requests"] for worker in systemd.status()["workers"]) >= PART
    total = sum(proportional(pid) or 0 for pid in systemd.processes())
    assert systemd.stop() == 0
    return total


def test_a_preloaded_django_site_costs_half_at_most(systemd: Systemd) -> None:
    shutil.copytree(SITE, systemd.site, dirs_exist_ok=True)
    with (systemd.site / "catalog/views.py").open("a") as views:
        views.write(STOCK)
    apart = cost(systemd, preload=False)
    shared = cost(systemd, preload=True)
    assert shared <= apart / 2, (shared, apart)
