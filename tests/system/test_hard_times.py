"""What the first version promises when workers die, hang, or the arbiter itself is stopped."""

import pytest

from tests.system.service import HANGING_PAGE, Service
from tests.system.traffic import traffic

# Says on standard error (so in the journal) that it has begun.
SLOW_PAGE = """
@app.route("/slow")
def slow():
    print("slow page begun", file=sys.stderr, flush=True)
    time.sleep(2)
    return "x" * 1_000_000
"""

STARTED = "39f53479d3a045ac8e11786248231fbf"  # systemd's MESSAGE_ID of a unit that has started


@pytest.mark.app(workers=4, bind="127.0.0.1:8000")
def test_killed_workers_take_only_their_requests(service: Service) -> None:
    victims: list[int] = []
    with (
        service.machine.follow(f"{service.name}.service") as journal,
        traffic(service.machine, port=8000, clients=50, keepalive=True, pause=0.01) as load,
    ):
        for _ in range(4):
            victim = min(service.workers())
            service.machine.run(f"kill -KILL {victim}")
            victims.append(victim)
            journal.until(lambda _: len(service.workers() - set(victims)) == 4)
        requests = load.end()
    assert len(requests) >= 1000
    for request in load.failures:
        assert request.failure in {"reset", "cut", "stale"}
        assert not request.previous or int(request.previous.split()[1]) in victims
    assert len(load.failures) <= 50 * len(victims)


@pytest.mark.app(SLOW_PAGE, workers=4)
def test_requests_in_hand_are_finished_at_sigterm(service: Service) -> None:
    machine = service.machine
    command = f"exec curl -sS --unix-socket {service.unix} http://slow/slow | wc -c"
    with machine.follow(f"{service.name}.service") as journal:
        clients = [machine.start(command, stdout=-1) for _ in range(4)]
        for _ in clients:
            journal.until(lambda record: record["MESSAGE"] == "slow page begun")
        machine.run(f"systemctl kill --kill-whom=main --signal=TERM {service.name}.service")
        sizes = [client.communicate(timeout=30)[0].strip() for client in clients]
        assert sizes == ["1000000"] * 4
        journal.until(lambda record: "Deactivated successfully" in record["MESSAGE"])
    assert service.show("ActiveState") == "inactive"
    assert service.show("ExecMainStatus") == "0"
    assert service.pids() == set()


@pytest.mark.app(HANGING_PAGE, workers=2, timeout=2)
def test_a_hung_worker_is_replaced_and_leaves_evidence(service: Service) -> None:
    before = service.workers()
    with service.machine.follow(f"{service.name}.service") as journal:
        page = service.machine.curl(
            "http://hang/hang", "--fail", "--unix-socket", service.unix, check=False
        )
        assert page.status != 0
        assert 2 <= page.seconds < 6
        record = journal.until(lambda record: "stuck_here" in str(record["MESSAGE"]))
        journal.until(lambda _: len(service.workers()) == 2)
    assert record["HTTP_PATH"] == "/hang"
    assert record["HTTP_METHOD"] == "GET"
    assert int(record["PREFORK_SD_WORKER_PID"]) in before
    assert len(before & service.workers()) == 1
    assert service.get().split()[0] == "1"


@pytest.mark.app(watchdog=2)
def test_an_idle_service_feeds_its_watchdog(service: Service) -> None:
    main = service.main_pid
    with service.machine.follow(f"{service.name}.service") as journal:
        assert journal.silence(10) == []
    assert service.main_pid == main
    assert service.show("NRestarts") == "0"


@pytest.mark.app(watchdog=2, bind="127.0.0.1:8000")
def test_a_stopped_arbiter_is_restarted_and_no_connection_refused(service: Service) -> None:
    main = service.main_pid
    with (
        service.machine.follow(f"{service.name}.service") as journal,
        traffic(service.machine, port=8000, clients=8, pause=0.01) as load,
    ):
        service.machine.run(f"kill -STOP {main}")
        journal.until(lambda record: "Watchdog timeout" in record["MESSAGE"])
        journal.until(lambda record: record.get("MESSAGE_ID") == STARTED)
        load.end()
    assert service.main_pid != main
    assert service.show("ActiveState") == "active"
    assert service.get().split()[0] == "1"
    assert {request.failure for request in load.failures} <= {"reset", "cut"}
