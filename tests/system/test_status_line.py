"""The one line of `systemctl status`: what is, right after it has changed."""

import re

import pytest

from tests.system.service import Service
from tests.system.traffic import traffic

PAGES = """
@app.route("/fail")
def fail():
    raise LookupError

@app.route("/slow")
def slow():
    time.sleep(1.5)
    return "slow"
"""


def line(service: Service) -> str:
    """What a person reads."""
    told = re.search(r'^ +Status: "(.*)"$', service.systemctl("status").out, re.MULTILINE)
    assert told
    return told[1]


@pytest.mark.app(workers=2)
def test_reloads(service: Service) -> None:
    assert line(service) == "serving: 2 of 2 workers ready, generation 1"
    service.systemctl("reload")
    assert line(service) == "serving: 2 of 2 workers ready, generation 2"

    service.deploy("import nothing_of_this_name")
    assert service.systemctl("reload", check=False).status == 1
    failed = line(service)
    assert failed.startswith("serving: 2 of 2 workers ready, generation 2; ")
    assert "No module named 'nothing_of_this_name'" in failed
    assert service.show("StatusErrno") == "22"
    assert service.show("ActiveState") == "active"

    service.deploy(service.version("3"))
    service.systemctl("reload")
    assert re.fullmatch("serving: 2 of 2 workers ready, generation [34]", line(service))
    assert service.show("StatusErrno") == "0"


@pytest.mark.app(workers=1)
def test_numbers_of_workers(service: Service) -> None:
    with service.machine.follow(f"{service.name}.service") as journal:
        service.machine.run(f"prefork-sd scale {service.name} 3")
        for _ in range(2):
            journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "worker-booted")
    assert line(service).startswith("serving: 3 of 3 workers ready")


@pytest.mark.app(PAGES, workers=2, watchdog=1, bind="127.0.0.1:8000")
def test_load_and_errors(service: Service) -> None:
    """Looked at with the heartbeat: every half second here."""
    said: set[str] = set()
    with (
        traffic(service.machine, port=8000, clients=2, path="/slow"),
        traffic(service.machine, port=8000, clients=1, path="/fail", pause=0.05),
    ):
        deadline = service.machine.clock() + 30
        wanted = {
            "busy": r", [12] busy",
            "rate": r"; [0-9.]+ requests/s",
            "errors": "failed lately",
        }
        while len(said) < len(wanted):
            assert service.machine.clock() < deadline, said
            text = line(service)
            said |= {name for name, words in wanted.items() if re.search(words, text)}
