"""One service for each test, and nothing of it left afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork_sd import process
from tests.process.systemd import Systemd


@pytest.fixture(scope="module", autouse=True)
def orphans_are_ours() -> Iterator[None]:
    """As PID 1 would: a service's orphans become our children, so that none can hide.

    Only here: a booted machine cannot end while we hold the dead of its namespace.
    """
    process.become_subreaper()
    yield
    process.become_subreaper(False)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    try:
        yield systemd
    finally:
        systemd.close()
