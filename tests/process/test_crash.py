"""Workers that die: replaced at once, on record by fact, and never a storm of forks."""

import os
from signal import SIGKILL, SIGSTOP, Signals

import pytest

from tests.process.systemd import Systemd

# a child of the arbiter that is not one of its workers, and an orphan that becomes one
FOREIGN = """
import os
from prefork_sd.process import become_subreaper

def on_starting(server):
    become_subreaper()
    if os.fork() == 0:
        os._exit(3)
"""
ORPHAN = """
PAGES["/orphan"] = lambda environ: double_fork()

def double_fork():
    if os.fork() == 0:
        if os.fork() == 0:
            knock("orphan")
            os._exit(9)
        os._exit(0)
    os.wait()
    return b"1 1"
"""


def test_a_killed_worker_is_replaced_at_once(systemd: Systemd) -> None:
    systemd.up(workers=2)
    victim, other = systemd.workers()
    os.kill(victim, SIGKILL)
    record = systemd.record("worker-killed", PREFORK_SD_WORKER_PID=victim)
    assert record["PREFORK_SD_SIGNAL"] == "SIGKILL"
    systemd.expect("STATUS=serving: 2 of 2")
    assert victim not in systemd.workers()
    assert other in systemd.workers()
    assert systemd.get().version == "1"


def test_only_the_request_in_a_killed_worker_is_lost(systemd: Systemd) -> None:
    systemd.up(workers=2)
    lost, kept = systemd.client().send("/wait"), systemd.client()
    victim = systemd.knock("request")
    kept.send("/wait")
    other = systemd.knock("request")
    os.kill(victim.pid, SIGKILL)
    record = systemd.record("worker-killed", PREFORK_SD_WORKER_PID=victim.pid)
    assert (record["HTTP_METHOD"], record["HTTP_PATH"]) == ("GET", "/wait")
    other.release()
    assert kept.answer().pid == other.pid
    with pytest.raises(OSError):  # noqa: PT011 (a reset or an end, as the kernel likes)
        lost.answer()


def test_a_client_that_comes_while_a_worker_is_stopped(systemd: Systemd) -> None:
    systemd.up(workers=2)
    for victim in systemd.workers():
        os.kill(victim, SIGSTOP)
        systemd.record(text=f"worker {victim} was stopped")
        assert systemd.get().pid != victim
        os.kill(victim, SIGKILL)
        systemd.record("worker-killed", PREFORK_SD_WORKER_PID=victim)
        systemd.expect("STATUS=serving: 2 of 2")


def test_all_workers_killed_at_once(systemd: Systemd) -> None:
    systemd.up(workers=4)
    victims = systemd.workers()
    for pid in victims:
        os.kill(pid, SIGKILL)
    for pid in victims:
        systemd.record("worker-killed", PREFORK_SD_WORKER_PID=pid)
    systemd.expect("STATUS=serving: 4 of 4")
    assert not set(victims) & set(systemd.workers())
    assert systemd.get().version == "1"


def test_a_worker_that_exits_in_a_request(systemd: Systemd) -> None:
    systemd.deploy(more='PAGES["/exit"] = lambda environ: os._exit(5)')
    systemd.up(workers=1)
    systemd.client().send("/exit")
    record = systemd.record("worker-exited", PREFORK_SD_EXIT_STATUS=5)
    assert "GET /exit" in record["message"]
    assert systemd.get().version == "1"


@pytest.mark.parametrize("threads", [1, 2])
def test_sys_exit_in_a_request_ends_the_request_only(systemd: Systemd, threads: int) -> None:
    systemd.deploy(more='import sys\nPAGES["/exit"] = lambda environ: sys.exit(5)')
    systemd.up(workers=1, threads=threads)
    (pid,) = systemd.workers()
    for _ in range(threads + 1):
        assert systemd.get("/exit").status == 500
    assert systemd.get().pid == pid


def test_an_exception_is_one_record_with_its_traceback(systemd: Systemd) -> None:
    systemd.up(workers=1)
    assert systemd.get("/raise").status == 500
    record = systemd.record("request-failed", HTTP_PATH="/raise", HTTP_STATUS=500)
    assert "LookupError: no such page" in record["message"]
    assert "in raising" in record["message"]


def test_a_crash_loop_is_slowed_down_and_heals(systemd: Systemd) -> None:
    systemd.deploy(more='open("imports", "a").write("x")')
    systemd.up(workers=4)
    systemd.write("app.py", 'open("imports", "a").write("x")\nimport no_such_module\n')
    before = (systemd.site / "imports").stat().st_size
    for pid in systemd.workers():
        os.kill(pid, SIGKILL)
    systemd.listen_for(2.0)
    attempts = (systemd.site / "imports").stat().st_size - before
    assert attempts <= 8
    assert len(systemd.all_records("worker-boot-failed")) <= attempts
    patient = systemd.client().send("/")
    systemd.deploy("2")
    assert patient.answer().version == "2"
    assert systemd.said("READY=1")[1:] == []  # it never went down


def test_a_worker_that_serves_lives_on_while_others_cannot_boot(systemd: Systemd) -> None:
    systemd.up(workers=2)
    survivor, victim = systemd.workers()
    systemd.write("app.py", "import no_such_module\n")
    os.kill(victim, SIGKILL)
    for _ in range(2):
        systemd.record("worker-boot-failed", "no_such_module")
    assert systemd.get().pid == survivor
    systemd.deploy("2")
    systemd.expect("STATUS=serving: 2 of 2")


def test_a_crash_during_a_reload(systemd: Systemd) -> None:
    systemd.up(workers=2)
    systemd.deploy("2", 'knock("import")')
    client = systemd.run("reload", str(systemd.yaml))
    canary = systemd.knock("import")
    victim, _ = systemd.workers()
    os.kill(victim, SIGKILL)
    systemd.record("worker-killed", PREFORK_SD_WORKER_PID=victim)
    replaced = systemd.knock("import")  # from the disk as it is now: it cannot know better
    replaced.release()
    canary.release()
    systemd.let_in(client)
    assert client.status == 0
    assert {systemd.get().version for _ in range(6)} == {"2"}
    assert len(systemd.workers()) == 2


def test_a_canary_that_is_killed(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.deploy("2", 'knock("import")')
    client = systemd.run("reload", str(systemd.yaml))
    os.kill(systemd.knock("import").pid, SIGKILL)
    assert systemd.done(client).status == 1
    assert "SIGKILL while it was booting" in client.text
    assert systemd.get().version == "1"


def test_children_that_are_not_ours_do_not_count(systemd: Systemd) -> None:
    systemd.write("hooks.py", FOREIGN)
    systemd.deploy(more=ORPHAN)
    systemd.up(workers=2, hooks="hooks.py")
    workers = systemd.workers()
    assert systemd.get("/orphan").status == 200
    orphan = systemd.knock("orphan")
    orphan.release()
    systemd.gone(orphan.pid)
    systemd.kill(Signals.SIGUSR1)
    systemd.record(text="serving: 2 of 2")
    assert systemd.workers() == workers
    assert not systemd.all_records("worker-exited")
