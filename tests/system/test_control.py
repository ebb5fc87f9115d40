"""The control socket and its clients: varlinkctl of systemd, and prefork-sd status."""

import json
import os
import select
import time

import pytest

from tests.system.machine import Machine
from tests.system.service import Service

CLEAR = "\x1b[H\x1b[J"  # of a terminal, before it shows the status anew
SLOW_PAGE = """
@app.route("/slow")
def slow():
    print("slow page begun", flush=True)
    time.sleep(8)
    return "slow"
"""

since_255 = pytest.mark.parametrize(
    "bare_machine", ["trixie"], indirect=True, scope="module"
)  # varlinkctl comes with 255; Debian 12 has 252


def call(service: Service, method: str, parameters: object = None, check: bool = True) -> object:
    """What varlinkctl gets for an answer; its complaint where it fails."""
    socket = f"/run/prefork-sd/{service.name}/control"
    words = f"varlinkctl call --json=short {socket} {method} '{json.dumps(parameters or {})}'"
    done = service.machine.run(words, check=check)
    return done.err + done.out if done.status else json.loads(done.out)


@since_255
@pytest.mark.app(SLOW_PAGE, workers=2)
def test_varlinkctl_knows_all_of_it(service: Service) -> None:
    machine, socket = service.machine, f"/run/prefork-sd/{service.name}/control"
    assert machine.run(f"ls -l {socket}").out.startswith("srw-------")
    info = machine.run(f"varlinkctl info {socket}").out
    for name in ("io.prefork.sd", "io.systemd.service", "org.varlink.service"):
        assert name in info
        assert f"interface {name}" in machine.run(f"varlinkctl introspect {socket} {name}").out
    assert call(service, "io.systemd.service.Ping") == {}

    with machine.follow(f"{service.name}.service") as journal:
        url = f"http://x/slow --unix-socket {service.unix}"
        with machine.start(f"exec curl -s {url}", stdout=-1) as client:
            journal.until(lambda record: record["MESSAGE"] == "slow page begun")
            status = call(service, "io.prefork.sd.Status")
            client.kill()
    assert isinstance(status, dict)
    assert (status["service"], status["state"], status["ready"]) == (service.name, "serving", 2)
    assert {worker["pid"] for worker in status["workers"]} == service.workers()
    (busy,) = [worker for worker in status["workers"] if worker["in_hand"]]
    assert busy["in_hand"][0]["path"] == "/slow"
    assert 0 < busy["in_hand"][0]["usec"] < 8_000_000
    assert all(worker["rss"] > 1 << 20 for worker in status["workers"])


@since_255
@pytest.mark.app(workers=2)
def test_varlinkctl_reloads_and_scales(service: Service) -> None:
    service.deploy(service.version("2"))
    answer = call(service, "io.prefork.sd.Reload")
    assert isinstance(answer, dict)
    assert answer["generation"] == 2
    assert service.get().split()[0] == "2"
    assert call(service, "io.prefork.sd.Scale", {"workers": 3}) == {"workers": 3}
    assert "InvalidParameter" in str(call(service, "io.prefork.sd.Scale", {"workers": 0}, False))
    service.deploy("import nothing_of_this_name")
    refused = str(call(service, "io.prefork.sd.Reload", check=False))
    assert "ReloadFailed" in refused
    assert "No module named 'nothing_of_this_name'" in refused


@since_255
@pytest.mark.app(workers=1)
def test_the_log_level_can_be_changed(service: Service) -> None:
    def details() -> int:
        return len([one for one in service.records() if one["PRIORITY"] == "7"])

    service.systemctl("reload")
    assert details() == 0
    assert call(service, "io.systemd.service.SetLogLevel", {"level": 7}) == {}
    service.machine.run(f"kill -TTIN {service.main_pid} && kill -TTOU {service.main_pid}")
    with service.machine.follow(f"{service.name}.service") as journal:
        service.machine.run(f"prefork-sd scale {service.name} 2")
        service.machine.run(f"prefork-sd scale {service.name} 1")
        journal.until(lambda record: "has left" in record["MESSAGE"])
    before = details()
    assert before > 0
    assert "InvalidParameter" in str(
        call(service, "io.systemd.service.SetLogLevel", {"level": 9}, check=False)
    )


@pytest.mark.app(workers=2)
def test_nobody_else_may_ask(service: Service) -> None:
    command = f"setpriv --reuid=nobody --clear-groups prefork-sd status {service.name}"
    refused = service.machine.run(command, check=False)
    assert refused.status == 1
    assert "for root and for the service's own user" in refused.err


@pytest.fixture
def two(machine: Machine) -> list[Service]:
    services = [Service(machine, name, workers=1) for name in ("left", "right")]
    for service in services:
        service.systemctl("start")
    return services


def test_all_services_of_the_machine(two: list[Service]) -> None:
    machine = two[0].machine
    machine.run("mkdir /run/prefork-sd/stale && touch /run/prefork-sd/stale/control")
    told = json.loads(machine.run("prefork-sd status --json").out)
    assert {"left", "right", "stale"} == set(told)
    assert told["left"]["pid"] == two[0].main_pid
    assert isinstance(told["stale"], str)
    table = machine.run("prefork-sd status").out
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert set(rows) == {"SERVICE", "left", "right", "stale"}
    assert "serving: 1 of 1 workers ready" in rows["right"]
    machine.run("rm -r /run/prefork-sd/stale")
    assert json.loads(machine.run("prefork-sd status --json left").out)["service"] == "left"
    for service in two:
        service.remove()


def read_until(fd: int, words: str, count: int, within: float = 30.0) -> str:
    """What comes until the words have come so often."""
    text, deadline = "", time.monotonic() + within
    while text.count(words) < count:
        left = deadline - time.monotonic()
        assert left > 0, f"{words!r} did not come {count} times in {within} s: {text!r}"
        if select.select([fd], [], [], left)[0]:
            data = os.read(fd, 65536)
            assert data, f"it ended: {text!r}"
            text += data.decode()
    return text


@pytest.mark.app(workers=2)
def test_watch_is_a_live_view_on_a_terminal(service: Service) -> None:
    machine = service.machine
    command = f"exec script -qfec 'exec prefork-sd status --watch {service.name}' /dev/null"
    with machine.start(command, stdin=-1, stdout=-1) as terminal:
        assert terminal.stdout is not None
        assert terminal.stdin is not None
        fd = terminal.stdout.fileno()
        assert "2 of 2 workers ready" in read_until(fd, CLEAR, 2)
        machine.run(f"prefork-sd scale {service.name} 3")
        read_until(fd, "3 of 3 workers ready", 1)
        terminal.stdin.write("\x03")  # Ctrl-C
        terminal.stdin.flush()
        assert terminal.wait(30) == 0
    piped = machine.run(f"prefork-sd status --watch {service.name}").out
    assert CLEAR not in piped
    assert "3 of 3 workers ready" in piped
