"""The watchdog proves service: it waits for what goes forward, and bites where nothing serves."""

import pytest

from tests.system.machine import Machine
from tests.system.service import Service

# Three periods of the watchdog, at each import.
SLOW = """
print("import begun", flush=True)
time.sleep(3)
"""
BITE = "Watchdog timeout"


def test_a_long_import_is_progress(machine: Machine) -> None:
    service = Service(machine, "patient", SLOW, workers=2, watchdog=1)
    service.systemctl("start")
    main = service.main_pid
    service.deploy(service.version("2"))
    service.systemctl("reload")
    assert service.get().split()[0] == "2"
    assert service.main_pid == main
    assert service.records(MESSAGE=BITE) == []
    service.remove()


@pytest.mark.app(workers=2, watchdog=1)
def test_where_nothing_can_be_served_systemd_restarts(service: Service) -> None:
    machine, main = service.machine, service.main_pid
    service.deploy("import nothing_of_this_name")
    with machine.follow(f"{service.name}.service") as journal:
        machine.run("kill -KILL " + " ".join(map(str, service.workers())))
        journal.until(lambda record: BITE in record["MESSAGE"])
        service.deploy(service.version("2"))
        ready = journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "ready", 60)
    assert int(ready["_PID"]) != main
    assert int(service.show("NRestarts")) >= 1
    assert service.get().split()[0] == "2"
