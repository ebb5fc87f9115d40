"""SIGUSR2: the newest prefork-sd takes over in place, and no client notices."""

import shutil
from pathlib import Path
from signal import SIGKILL, SIGTTIN, SIGUSR2

import pytest

from tests.process import proc
from tests.process.systemd import ROOT, Systemd


@pytest.fixture
def installed(systemd: Systemd) -> Path:
    """A prefork-sd of the service's own, which a test may upgrade or break."""
    home = systemd.folder / "lib"
    shutil.copytree(ROOT / "prefork_sd", home / "prefork_sd", ignore=_no_bytecode)
    (home / "systemd").symlink_to(ROOT / "systemd")
    systemd.environ["PYTHONPATH"] = str(home)
    return home / "prefork_sd"


def _no_bytecode(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def upgrade(installed: Path, version: str) -> None:
    """Replace the package as an upgrade does, with another version."""
    (installed / "__init__.py").write_text(f'"""Upgraded."""\n\n__version__ = "{version}"\n')


def test_a_new_version_takes_over_with_the_same_pid(systemd: Systemd, installed: Path) -> None:
    systemd.up(workers=2)
    old = systemd.workers()
    upgrade(installed, "99.1")
    systemd.deploy("2")
    systemd.kill(SIGUSR2)
    systemd.expect("RELOADING=1", "MONOTONIC_USEC=")
    systemd.expect("READY=1", "STATUS=serving: 2 of 2 workers ready")
    status = systemd.status()
    assert (status["version"], status["pid"]) == ("99.1", systemd.pid)
    assert {systemd.get().version for _ in range(6)} == {"2"}
    for pid in old:
        systemd.record("worker-exited", PREFORK_SD_WORKER_PID=pid, PREFORK_SD_EXIT_STATUS=0)
    assert systemd.reload().status == 0


def test_a_request_outlives_the_exec(systemd: Systemd) -> None:
    systemd.up(workers=2)
    client = systemd.client().send("/large", close=True)
    inside = systemd.knock("request")
    systemd.kill(SIGUSR2)
    systemd.record("reload-done")
    assert systemd.get().pid != inside.pid
    inside.release()
    assert len(client.answer().body) == 3_000_000
    systemd.record("worker-exited", PREFORK_SD_WORKER_PID=inside.pid, PREFORK_SD_EXIT_STATUS=0)


def test_the_control_socket_is_there_all_the_time(systemd: Systemd) -> None:
    systemd.up(workers=1)
    control = systemd.runtime / "control"
    before = control.stat()
    systemd.kill(SIGUSR2)
    systemd.record("reload-done")
    after = control.stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    control.unlink()  # then a new one is made
    systemd.kill(SIGUSR2)
    systemd.record("reload-done")
    assert systemd.reload().status == 0
    assert systemd.stop() == 0
    assert not control.exists()


def test_code_that_cannot_start_is_refused(systemd: Systemd, installed: Path) -> None:
    systemd.up(workers=2)
    old = systemd.workers()
    (installed / "crew.py").write_text("broken here\n")
    systemd.kill(SIGUSR2)
    record = systemd.record("reexec", "re-exec refused")
    assert "SyntaxError" in record["message"]
    assert systemd.workers() == old
    assert systemd.get().version == "1"
    assert not systemd.said("RELOADING=1")


def test_an_app_that_cannot_be_imported_refuses_too(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.write("app.py", "import no_such_module\n")
    systemd.kill(SIGUSR2)
    assert "no_such_module" in systemd.record("reexec", "re-exec refused")["message"]
    assert systemd.get().version == "1"
    assert not systemd.said("RELOADING=1")


def test_many_times_leave_nothing_behind(systemd: Systemd) -> None:
    systemd.up(workers=2)
    files: list[dict[int, str]] = []
    for _ in range(3):
        systemd.kill(SIGUSR2)
        systemd.record("reload-done")
        for _ in range(2):
            systemd.record("worker-exited")
        assert systemd.get().status == 200
        systemd.settle()
        files.append(proc.files(systemd.pid))
    assert len(files[-1]) == len(files[0])
    assert not systemd.all_records(level="error")


def test_the_number_of_workers_outlives_the_exec(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.kill(SIGTTIN)
    systemd.expect("STATUS=serving: 2 of 2")
    systemd.kill(SIGUSR2)
    systemd.record("reload-done")
    assert len(systemd.workers()) == 2


def test_the_number_of_workers_outlives_a_restart(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.call("Scale", workers=3)
    systemd.expect("STATUS=serving: 3 of 3")
    assert systemd.stop() == 0
    systemd.again()
    assert len(systemd.workers()) == 3
    systemd.kill(SIGKILL)
    systemd.ended()
    systemd.wait_for_processes()
    systemd.configure(workers=2)  # the file has the last word
    systemd.again()
    assert len(systemd.workers()) == 2


def test_the_watchdog_is_fed_after_the_exec(systemd: Systemd) -> None:
    systemd.start(watchdog=1.0, workers=1)
    systemd.expect("READY=1")
    systemd.kill(SIGUSR2)
    systemd.record("reload-done")
    systemd.expect("WATCHDOG=1")
    systemd.expect("WATCHDOG=1")


def test_a_stop_after_the_exec_leaves_nothing(systemd: Systemd) -> None:
    file = systemd.runtime / "shop.pid"
    systemd.up(workers=2, pidfile=str(file))
    systemd.kill(SIGUSR2)
    systemd.record("reload-done")
    assert file.read_text() == f"{systemd.pid}\n"
    assert systemd.stop() == 0
    assert not file.exists()
