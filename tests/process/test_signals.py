"""The number of workers, as signals and the control socket change it while requests are served."""

from signal import SIGHUP, SIGTTIN, SIGTTOU, SIGUSR1, SIGWINCH

import pytest

from prefork_sd.asking import ControlError
from tests.process.systemd import Systemd


def test_ttin_adds_a_worker_and_ttou_takes_one_away(systemd: Systemd) -> None:
    systemd.up(workers=2)
    old = systemd.workers()
    systemd.kill(SIGTTIN)
    systemd.expect("STATUS=serving: 3 of 3")
    assert systemd.workers()[:2] == old
    systemd.kill(SIGTTOU)
    systemd.expect("STATUS=serving: 2 of 2")
    systemd.record("worker-exited", PREFORK_SD_WORKER_PID=old[0], PREFORK_SD_EXIT_STATUS=0)
    assert len(systemd.workers()) == 2


def test_ttou_never_takes_the_last_worker(systemd: Systemd) -> None:
    systemd.up(workers=2)
    systemd.kill(SIGTTOU)
    systemd.expect("STATUS=serving: 1 of 1")
    (last,) = systemd.workers()
    systemd.kill(SIGTTOU)
    assert systemd.status()["wanted"] == 1
    assert systemd.workers() == [last]


def test_the_number_of_workers_survives_a_reload(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.kill(SIGTTIN)
    systemd.expect("STATUS=serving: 2 of 2")
    systemd.deploy("2")
    assert systemd.reload().status == 0
    assert len(systemd.workers()) == 2
    systemd.configure(workers=4)  # but a new number in the file is meant
    assert systemd.reload().status == 0
    assert len(systemd.workers()) == 4


def test_the_number_of_workers_may_change_during_a_reload(systemd: Systemd) -> None:
    systemd.up(workers=2)
    systemd.deploy("2", 'knock("import")')
    client = systemd.run("reload", str(systemd.yaml))
    canary = systemd.knock("import")
    systemd.kill(SIGTTIN)
    systemd.expect("STATUS=serving: 2 of 3")
    canary.release()
    systemd.let_in(client)
    assert systemd.done(client).status == 0
    assert len(systemd.workers()) == 3
    assert {systemd.get().version for _ in range(6)} == {"2"}


def test_winch_retires_all_workers_and_keeps_the_listener(systemd: Systemd) -> None:
    systemd.up(workers=2)
    old = systemd.workers()
    systemd.kill(SIGWINCH)
    systemd.expect("STATUS=paused")
    for pid in old:
        systemd.record("worker-exited", PREFORK_SD_WORKER_PID=pid, PREFORK_SD_EXIT_STATUS=0)
    assert systemd.status()["workers"] == []
    patient = systemd.client().send("/")
    systemd.deploy("2")
    systemd.hup()
    assert patient.answer().version == "2"
    systemd.expect("READY=1", "STATUS=serving: 2 of 2")


def test_ttin_brings_back_what_winch_retired(systemd: Systemd) -> None:
    systemd.up(workers=2)
    systemd.kill(SIGWINCH)
    for _ in range(2):
        systemd.record("worker-exited")
    patient = systemd.client().send("/")
    systemd.kill(SIGTTIN)
    assert patient.answer().version == "1"
    systemd.expect("STATUS=serving: 2 of 2")


def test_usr1_puts_the_status_on_record(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.kill(SIGUSR1)
    assert systemd.record(text="serving: 1 of 1 workers ready")["level"] == "info"


def test_many_signals_at_once_settle(systemd: Systemd) -> None:
    systemd.up(workers=2)
    for signum in (SIGTTIN, SIGHUP, SIGTTOU, SIGWINCH, SIGHUP, SIGTTIN, SIGUSR1, SIGHUP):
        systemd.kill(signum)
    systemd.deploy("2")
    assert systemd.reload().status == 0
    status = systemd.status()
    assert status["wanted"] == status["ready"] == len(systemd.workers())
    assert 1 <= status["wanted"] <= 3
    assert {systemd.get().version for _ in range(6)} == {"2"}


def test_scale(systemd: Systemd) -> None:
    systemd.up(workers=1)
    done = systemd.done(systemd.run("scale", str(systemd.yaml), "3"))
    assert (done.status, done.text) == (0, "3 workers from now on\n")
    systemd.expect("STATUS=serving: 3 of 3")
    with pytest.raises(ControlError):
        systemd.call("Scale", workers=0)
    assert len(systemd.workers()) == 3


def test_status_for_people(systemd: Systemd) -> None:
    systemd.up(workers=1)
    client = systemd.client().send("/wait")
    inside = systemd.knock("request")
    done = systemd.done(systemd.run("status", str(systemd.yaml)))
    assert done.status == 0
    assert f"shop ({systemd.pid}): serving: 1 of 1 workers ready" in done.text
    (line,) = [line for line in done.text.splitlines() if line.lstrip().startswith(str(inside.pid))]
    assert "GET /wait" in line
    inside.release()
    assert client.answer().status == 200
