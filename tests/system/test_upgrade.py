"""prefork-sd becomes a newer version of itself under load: the same PID, no request lost."""

import json
from pathlib import Path

import pytest

from tests.system.conftest import NEWER, install
from tests.system.service import Service
from tests.system.traffic import traffic

CLIENTS = {"port": 8000, "clients": 8, "pause": 0.01}
LOCAL = {"workers": 4, "bind": "127.0.0.1:8000"}


@pytest.mark.app(**LOCAL)
@pytest.mark.parametrize("keepalive", [False, True], ids=["close", "keep-alive"])
def test_ten_re_execs_lose_nothing(service: Service, keepalive: bool) -> None:
    main, workers = service.main_pid, service.workers()
    unit = f"{service.name}.service"
    with (
        service.machine.follow(unit) as journal,
        traffic(service.machine, **CLIENTS, keepalive=keepalive) as load,
    ):
        for _ in range(10):
            service.machine.run(f"systemctl kill --kill-whom=main --signal=USR2 {unit}")
            journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "reload-done")
        load.end()
    assert load.failures == []
    assert service.main_pid == main
    assert not workers & service.workers()
    assert service.show("NRestarts") == "0"


@pytest.mark.app(**LOCAL)
def test_a_re_exec_of_broken_code_is_refused(service: Service) -> None:
    main, workers = service.main_pid, service.workers()
    module = "/usr/lib/python3/dist-packages/prefork_sd/arbiter.py"
    service.machine.run(f"cp {module} /root/ && echo 'raise SystemError' >>{module}")
    unit = f"{service.name}.service"
    with service.machine.follow(unit) as journal:
        service.machine.run(f"systemctl kill --kill-whom=main --signal=USR2 {unit}")
        record = journal.until(lambda record: "re-exec refused" in record["MESSAGE"])
    service.machine.run(f"cp /root/arbiter.py {module}")
    assert "SystemError" in record["MESSAGE"]
    assert service.main_pid == main
    assert service.workers() == workers
    assert service.get().split()[0] == "1"


@pytest.mark.app(**LOCAL)
def test_an_upgrade_by_apt_loses_nothing(service: Service, newer_deb: Path) -> None:
    main = service.main_pid
    with (
        service.machine.follow(f"{service.name}.service") as journal,
        traffic(service.machine, **CLIENTS) as load,
    ):
        install(service.machine, newer_deb)
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "reload-done")
        load.end()
    assert load.failures == []
    assert service.main_pid == main
    assert service.show("NRestarts") == "0"
    status = json.loads(service.machine.run(f"prefork-sd status --json {service.name}").out)
    assert status["version"] == NEWER
    assert {worker["generation"] for worker in status["workers"]} == {status["generation"]}
