"""A control group for the arbiter and for each worker, and what becomes of one."""

import re
from pathlib import Path

import pytest

from tests.system.service import Service

# What a worker starts in a session of its own, a signal to its process group does not reach.
HELPER = """
import subprocess

def stuck_here():
    while True:
        time.sleep(1)

@app.route("/hang")
def hang():
    helper = subprocess.Popen(["tail", "-f", "/dev/null"], start_new_session=True)
    print(f"helper {helper.pid}", flush=True)
    stuck_here()
"""


def groups(service: Service) -> dict[str, set[int]]:
    """The groups below the unit's own, and the processes in each."""
    root = f"/sys/fs/cgroup{service.show('ControlGroup')}"
    lines = service.machine.run(
        f"cd {root} && for g in arbiter workers/*/; do echo $g $(cat $g/cgroup.procs); done"
    ).out.splitlines()
    return {Path(line.split()[0]).name: {int(pid) for pid in line.split()[1:]} for line in lines}


@pytest.mark.app(workers=3)
def test_each_worker_has_its_own_by_name(service: Service) -> None:
    found = groups(service)
    assert found.pop("arbiter") == {service.main_pid}
    assert set(found) == {"worker-1", "worker-2", "worker-3"}
    assert set.union(*found.values()) == service.workers()
    assert all(len(pids) == 1 for pids in found.values())
    shown = service.machine.run(f"systemd-cgls --no-pager -u {service.name}.service").out
    names = re.findall(r"[├└]─(arbiter|workers|worker-\d)", shown)
    assert sorted(names) == ["arbiter", "worker-1", "worker-2", "worker-3", "workers"]
    mark = f"/sys/fs/cgroup{service.show('ControlGroup')}/arbiter"
    ask = f"import os; print(os.getxattr({mark!r}, 'user.oomd_omit'))"
    assert service.machine.run(f'python3 -c "{ask}"').out == "b'1'\n"


@pytest.mark.app(workers=2)
def test_none_is_left_by_reloads_and_restarts(service: Service) -> None:
    for verb in ("reload", "reload", "restart", "reload"):
        service.systemctl(verb)
    with service.machine.follow(f"{service.name}.service") as journal:
        service.machine.run(f"kill -KILL {min(service.workers())}")
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "worker-booted")
    found = groups(service)
    assert found.pop("arbiter") == {service.main_pid}
    assert set.union(*found.values()) == service.workers()
    assert len(found) == 2


@pytest.mark.app(HELPER, workers=1, timeout=2)
def test_a_hung_worker_dies_with_what_it_has_started(service: Service) -> None:
    machine = service.machine
    (hung,) = service.workers()
    with machine.follow(f"{service.name}.service") as journal:
        with machine.start(f"exec curl -s --unix-socket {service.unix} http://x/hang") as client:
            text = journal.until(lambda record: "helper " in record["MESSAGE"])["MESSAGE"]
            helper = int(text.split()[1])
            assert groups(service)["worker-1"] == {hung, helper}
            journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "worker-hung")
            client.wait(30)
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "worker-booted")
    assert not {hung, helper} & service.pids()
    assert machine.run(f"kill -0 {helper}", check=False).status != 0


@pytest.mark.app(
    HELPER, workers=2, timeout=2, log_level="debug", worker_memory_max="1G",
    unit={"Service": {"Delegate": "no"}},
)  # fmt: skip
def test_without_delegation_everything_else_works(service: Service) -> None:
    told = service.records(MESSAGE="no control groups of our own")
    assert [record["PRIORITY"] for record in told] == ["7"]
    assert service.get().split()[0] == "1"
    service.systemctl("reload")
    with service.machine.follow(f"{service.name}.service") as journal:
        service.machine.curl("http://x/hang", "--unix-socket", service.unix, check=False)
        record = journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "worker-hung")
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "worker-booted")
    assert record["HTTP_PATH"] == "/hang"
    service.systemctl("restart")
    assert service.get().split()[0] == "1"
    assert not [one for one in service.records() if one["PRIORITY"] in "0123" and one != record]


@pytest.mark.parametrize("bare_machine", ["trixie"], indirect=True, scope="module")
@pytest.mark.app(workers=1, unit={"Service": {"MemoryPressureWatch": "on"}})
def test_memory_pressure_is_watched_where_systemd_says(service: Service) -> None:
    files = service.machine.run(f"ls -l /proc/{service.main_pid}/fd").out
    assert "/memory.pressure" in files
    worker = service.machine.run(f"ls -l /proc/{min(service.workers())}/fd").out
    assert "/memory.pressure" not in worker
