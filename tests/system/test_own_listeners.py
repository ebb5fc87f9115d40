"""A unit without sockets: we bind ourselves, and systemd keeps the listener over a restart."""

from collections.abc import Iterator

import pytest

from tests.system.machine import Machine
from tests.system.service import FLASK
from tests.system.traffic import traffic

UNIT = """
[Service]
Type=notify
ExecStart=/usr/bin/prefork-sd serve app:app --directory /srv/plain --bind 127.0.0.1:8080 --workers 2
Restart=on-failure
RestartSec=100ms
KillMode=mixed
FileDescriptorStoreMax=8
RuntimeDirectory=plain
"""
CLIENTS = {"port": 8080, "clients": 8, "pause": 0.01}


@pytest.fixture
def plain(machine: Machine) -> Iterator[Machine]:
    machine.write("/srv/plain/app.py", FLASK)
    machine.write("/etc/systemd/system/plain.service", UNIT)
    machine.run("systemctl daemon-reload && systemctl start plain")
    yield machine
    machine.run("systemctl stop plain && rm /etc/systemd/system/plain.service")


def test_a_restart_refuses_nobody(plain: Machine) -> None:
    with traffic(plain, **CLIENTS) as load:
        for _ in range(3):
            plain.run("systemctl restart plain")
        load.end()
    assert load.failures == []


def test_a_crash_refuses_nobody(plain: Machine) -> None:
    with plain.follow("plain.service") as journal, traffic(plain, **CLIENTS) as load:
        plain.run(f"kill -KILL {plain.show('plain.service', 'MainPID')}")
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "ready")
        load.end()
    assert {request.failure for request in load.failures} <= {"reset", "cut"}
    assert len(load.failures) <= 8


def test_a_stop_closes_it(plain: Machine) -> None:
    assert plain.curl("http://127.0.0.1:8080/", "--fail").out.split()[0] == "1"
    plain.run("systemctl stop plain")
    refused = plain.curl("http://127.0.0.1:8080/", check=False)
    assert refused.status == 7  # of curl(1): could not connect
    plain.run("systemctl start plain")
    assert plain.curl("http://127.0.0.1:8080/", "--fail").out.split()[0] == "1"
