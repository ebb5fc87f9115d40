"""What a service costs that has nothing to do."""

import pytest

from tests.system.service import Service

SPAN = 30.0  # seconds


def wakeups(service: Service) -> int:
    """How often all threads of the service have begun to wait: proc_pid_status(5)."""
    files = " ".join(f"/proc/{pid}/task/*/status" for pid in service.pids())
    told = service.machine.run(f"cat {files}").out.splitlines()
    return sum(int(line.split()[1]) for line in told if line.startswith("voluntary_ctxt_switches:"))


@pytest.mark.app(workers=4, watchdog=0)
def test_an_idle_service_wakes_less_than_once_a_second(service: Service) -> None:
    assert service.get().split()[0] == "1"
    pids = service.pids()
    assert len(pids) == 5
    before = wakeups(service)
    with service.machine.follow(f"{service.name}.service") as journal:
        assert journal.silence(SPAN) == []
    assert service.pids() == pids
    assert wakeups(service) - before < SPAN
