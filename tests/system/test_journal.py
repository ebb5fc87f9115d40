"""What the journal has of a service, and that nobody waits for a journald that does not listen."""

import pytest

from tests.system.service import Service
from tests.system.traffic import Request, Traffic, percentile, traffic

SPAN = 5.0  # seconds of load before, while and after journald is stopped

# Each way in which an app can say something, with the id that its client gets.
TALKS = """
import logging, traceback

def fail():
    raise LookupError("no such page")

@app.route("/talk")
def talk():
    print("printed", 1)
    print("complained", file=sys.stderr)
    logging.getLogger("shop").warning("warned")
    try:
        fail()
    except LookupError:
        traceback.print_exc()
        logging.getLogger("shop").exception("logged")
    return "talked"

@app.route("/fail")
def failing():
    fail()
"""


def within(requests: list[Request], began: float) -> list[Request]:
    """Those that began in a span."""
    return [one for one in requests if began <= one.began < began + SPAN]


def stop_journald(service: Service, load: Traffic) -> tuple[float, float]:
    """Under load, for a span; when the span before it began, and when it did."""
    machine = service.machine
    before = machine.clock()
    machine.observe(SPAN)
    machine.run("systemctl kill --signal=STOP systemd-journald.service")
    began = machine.clock()
    machine.observe(SPAN)
    machine.run("systemctl kill --signal=CONT systemd-journald.service")
    machine.observe(1.0)
    load.end()
    return before, began


@pytest.mark.app(
    bind="127.0.0.1:8000",
    access_log="all",
    unit={"Service": {"LogRateLimitIntervalSec": "30s", "LogRateLimitBurst": 10_000_000}},
)
def test_a_stopped_journald_holds_up_nobody(service: Service) -> None:
    with traffic(service.machine, port=8000, clients=4, pause=0.002) as load:
        before, began = stop_journald(service, load)
    assert load.failures == []
    usual, meanwhile = within(load.requests, before), within(load.requests, began)
    assert len(meanwhile) > 1000  # far more than its socket holds
    assert len(meanwhile) > len(usual) / 2
    assert percentile(meanwhile, 99) < max(0.25, 4 * percentile(usual, 99))
    assert max(one.seconds for one in meanwhile) < SPAN / 2

    kept = service.records(PREFORK_SD_EVENT="request")
    lost = service.records(PREFORK_SD_EVENT="lost-records")
    assert lost
    assert {record["PRIORITY"] for record in lost} == {"4"}
    told = sum(int(record["PREFORK_SD_LOST"]) for record in lost)
    assert told > 0
    assert len(kept) + told == len(load.requests)


@pytest.mark.app(workers=1)
def test_the_arbiter_does_not_wait_either(service: Service) -> None:
    machine = service.machine
    machine.run("systemctl kill --signal=STOP systemd-journald.service")
    try:
        began = machine.clock()
        for number in range(5):
            service.deploy(service.version(str(number)))
            machine.run(f"prefork-sd reload {service.name}")
            assert service.get().split()[0] == str(number)
        assert machine.clock() - began < 20
    finally:
        machine.run("systemctl kill --signal=CONT systemd-journald.service")
    assert service.show("NRestarts") == "0"


@pytest.mark.app(TALKS, request_id_header="X-Request-ID", workers=2)
def test_what_the_app_says_has_its_request(service: Service) -> None:
    url = f"http://{service.name}/talk"
    head = service.machine.curl(url, "--include", "--unix-socket", service.unix).out
    (number,) = [
        line.partition(": ")[2].strip() for line in head.splitlines() if "X-Request-ID" in line
    ]
    service.machine.run("journalctl --sync")
    found = service.machine.journal(
        f"{service.name}.service", f"PREFORK_SD_REQUEST_ID={number}", "HTTP_PATH=/talk"
    )
    told = {record["MESSAGE"].partition("\n")[0]: record for record in found}
    traceback = "Traceback (most recent call last):"
    priorities = {text: record["PRIORITY"] for text, record in told.items()}
    assert priorities == {
        "printed 1": "6",
        "complained": "4",
        "warned": "4",
        traceback: "4",
        "logged": "3",
    }
    for text in (traceback, "logged"):
        assert told[text]["MESSAGE"].endswith("LookupError: no such page")
    for record in found:
        assert int(record["PREFORK_SD_WORKER_PID"]) in service.workers()
        assert record["PREFORK_SD_GENERATION"] == "1"
        assert record["SYSLOG_IDENTIFIER"] == service.name
    assert told["warned"]["LOGGER"] == "shop"


@pytest.mark.app(TALKS, access_log="all")
def test_requests_are_found_by_their_fields(service: Service) -> None:
    for path in ("/", "/fail?secret=1", "/nowhere"):
        service.machine.curl(f"http://x{path}", "--unix-socket", service.unix)
    service.machine.run("journalctl --sync")
    unit = f"{service.name}.service"
    (failed,) = service.machine.journal(unit, "HTTP_STATUS=500")
    assert failed["HTTP_METHOD"] == "GET"
    assert failed["HTTP_PATH"] == "/fail"
    assert int(failed["DURATION_USEC"]) > 0
    assert int(failed["BYTES"]) > 0
    assert failed["PRIORITY"] == "4"
    assert "secret" not in str(failed)
    requests = service.machine.journal(unit, "PREFORK_SD_EVENT=request")
    assert [record["HTTP_STATUS"] for record in requests] == ["200", "500", "404"]
    assert {record["PREFORK_SD_GENERATION"] for record in requests} == {"1"}


@pytest.mark.app
def test_the_catalog_explains_each_event(service: Service) -> None:
    service.deploy("import nothing_of_this_name")
    assert service.systemctl("reload", check=False).status == 1
    explained = service.machine.run(
        f"journalctl --quiet -x -u {service.name} PREFORK_SD_EVENT=reload-failed"
    ).out
    assert "Subject: " in explained
    assert service.name in explained
    catalog = service.machine.run("journalctl --list-catalog").out
    events = {record["MESSAGE_ID"] for record in service.records(PREFORK_SD_EVENT="-")}
    assert len(events) >= 3
    assert all(event in catalog for event in events)
