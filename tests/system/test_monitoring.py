"""Metrics and health on the status socket, as Prometheus and a load balancer see them."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.system.service import Service

STATUS = "http://127.0.0.1:9100"
FAILS = """
@app.route("/fail")
def fail():
    raise LookupError
"""
SLOW_START = """
if os.path.exists("/srv/status-of-a-start/slow"):
    print("import begun", flush=True)
    time.sleep(3)
"""

monitored = {"workers": 2, "status_bind": "127.0.0.1:9100"}


def metrics(service: Service) -> dict[tuple[str, str], float]:
    """Every sample by its name and labels, as Prometheus' own parser reads them."""
    text = service.machine.curl(f"{STATUS}/metrics", "--fail").out
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def health(service: Service) -> tuple[int, str]:
    """The status and the text of /healthz."""
    done = service.machine.curl(f"{STATUS}/healthz", "--write-out", "%{http_code}")
    return int(done.out[-3:]), done.out[:-3].strip()


@pytest.mark.app(FAILS, **monitored)
def test_counters_survive_a_restart_and_a_crash(service: Service) -> None:
    assert service.machine.show(f"{service.name}-status.socket", "ActiveState") == "active"
    for _ in range(3):
        service.get()
    service.machine.curl("http://x/fail", "--unix-socket", service.unix)
    service.systemctl("reload")
    service.systemctl("restart")
    service.get()
    with service.machine.follow(f"{service.name}.service") as journal:
        service.machine.run(f"kill -KILL {service.main_pid}")
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "ready")
    service.get()
    found = metrics(service)
    assert found["prefork_sd_http_requests_total", "2xx"] == 5
    assert found["prefork_sd_http_requests_total", "5xx"] == 1
    assert found["prefork_sd_http_request_duration_seconds_count", ""] == 6
    assert found["prefork_sd_reloads_total", "done"] == 1
    assert found["prefork_sd_workers", "ready"] == 2
    service.systemctl("stop")
    service.systemctl("start")
    assert metrics(service)["prefork_sd_http_requests_total", "2xx"] == 0


@pytest.mark.app(**monitored)
def test_the_number_of_workers_survives_a_restart_and_a_crash(service: Service) -> None:
    service.machine.run(f"prefork-sd scale {service.name} 3")
    service.systemctl("restart")
    assert metrics(service)["prefork_sd_workers_wanted", ""] == 3
    with service.machine.follow(f"{service.name}.service") as journal:
        service.machine.run(f"kill -KILL {service.main_pid}")
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "ready")
    assert metrics(service)["prefork_sd_workers", "ready"] == 3


@pytest.mark.app(SLOW_START, **monitored)
def test_status_of_a_start(service: Service) -> None:
    assert health(service)[0] == 200
    assert health(service)[1].startswith("serving: 2 of 2 workers ready")
    service.machine.run("touch /srv/status-of-a-start/slow")
    with service.machine.follow(f"{service.name}.service") as journal:
        service.machine.run(f"systemctl restart --no-block {service.name}")
        journal.until(lambda record: "import begun" in record["MESSAGE"])
        code, text = health(service)
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "ready")
    assert code == 503
    assert text == "booting: 0 of 2 workers are ready"
    assert health(service)[0] == 200


@pytest.mark.parametrize("bare_machine", ["trixie"], indirect=True, scope="module")
@pytest.mark.app(FAILS, **monitored)
def test_promtool_has_nothing_to_say(service: Service) -> None:
    service.get()
    ask = f"curl -s -H 'Accept: text/plain' {STATUS}/metrics"
    told = service.machine.run(f"{ask} | promtool check metrics", check=False)
    assert told.out + told.err == ""
    assert told.status == 0
