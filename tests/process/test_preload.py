"""preload_app: a mold imports the app once, its workers share it, and the arbiter stays clean."""

import os
from pathlib import Path
from signal import SIGKILL

from prefork_sd.errors import ExitCode
from tests.process import proc
from tests.process.systemd import Systemd

COUNTING = 'with open("imported", "a") as file:\n    file.write(f"{os.getpid()}\\n")'

THREAD = """
import threading
threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
"""


def importers(systemd: Systemd) -> list[int]:
    """Who imported the app, in their order."""
    return [int(line) for line in Path(systemd.site / "imported").read_text().split()]


def test_the_app_is_imported_once_by_a_mold(systemd: Systemd) -> None:
    systemd.deploy(more=COUNTING)
    systemd.up(workers=3, preload_app=True)
    (mold,) = importers(systemd)
    assert mold != systemd.pid
    assert proc.title(mold) == "prefork-sd: mold [shop]"
    assert mold not in systemd.workers()
    assert "app.py" not in Path(f"/proc/{systemd.pid}/maps").read_text()
    assert systemd.get().pid in systemd.workers()


def test_a_killed_worker_is_made_anew_without_an_import(systemd: Systemd) -> None:
    systemd.deploy(more=COUNTING)
    systemd.up(workers=2, preload_app=True)
    victim, _ = systemd.workers()
    os.kill(victim, SIGKILL)
    systemd.record("worker-killed", PREFORK_SD_WORKER_PID=victim)
    systemd.expect("STATUS=serving: 2 of 2")
    assert len(importers(systemd)) == 1


def test_a_reload_has_a_new_mold(systemd: Systemd) -> None:
    systemd.deploy(more=COUNTING)
    systemd.up(workers=2, preload_app=True)
    (first,) = importers(systemd)
    systemd.deploy("2", COUNTING)
    assert systemd.reload().status == 0
    assert {systemd.get().version for _ in range(6)} == {"2"}
    assert len(importers(systemd)) == 2
    systemd.gone(first)


def test_a_bad_reload_leaves_the_old_mold(systemd: Systemd) -> None:
    systemd.deploy(more=COUNTING)
    systemd.up(workers=2, preload_app=True)
    systemd.write("app.py", "import no_such_module\n")
    done = systemd.reload()
    assert done.status == 1
    assert "No module named 'no_such_module'" in done.text
    victim, _ = systemd.workers()
    os.kill(victim, SIGKILL)
    systemd.expect("STATUS=serving: 2 of 2")
    assert systemd.get().version == "1"
    assert len(importers(systemd)) == 1


def test_an_app_that_cannot_be_imported(systemd: Systemd) -> None:
    systemd.write("app.py", "import no_such_module\n")
    systemd.start(preload_app=True)
    assert systemd.ended() == ExitCode.APP_LOAD_ERROR
    assert "no_such_module" in systemd.said("STATUS")[-1].fields["STATUS"]
    assert "Traceback" in systemd.record("worker-boot-failed")["message"]


def test_an_import_that_hangs(systemd: Systemd) -> None:
    systemd.up(workers=1, preload_app=True)
    systemd.configure(workers=1, preload_app=True, boot_timeout=1)
    systemd.deploy("2", 'def stuck():\n    knock("import")\nstuck()')
    done = systemd.reload()
    assert done.status == 1
    assert "did not boot in time" in done.text
    assert "in stuck" in done.text
    assert systemd.get().version == "1"


def test_a_stop_while_a_mold_hangs(systemd: Systemd) -> None:
    systemd.up(workers=2, preload_app=True)
    systemd.deploy("2", 'knock("import")')
    client = systemd.run("reload", str(systemd.yaml))
    mold = systemd.knock("import")
    assert systemd.stop() == 0
    assert systemd.done(client).status == 1
    systemd.gone(mold.pid)


def test_a_killed_mold_is_made_anew_when_it_is_needed(systemd: Systemd) -> None:
    systemd.deploy(more=COUNTING)
    systemd.up(workers=2, preload_app=True)
    os.kill(importers(systemd)[0], SIGKILL)
    systemd.record(text="the mold of generation 1 was killed by SIGKILL")
    assert systemd.get().version == "1"
    os.kill(systemd.workers()[0], SIGKILL)
    systemd.expect("STATUS=serving: 2 of 2")
    assert len(importers(systemd)) == 2


def test_all_leave_when_the_arbiter_is_killed(systemd: Systemd) -> None:
    systemd.up(workers=2, preload_app=True)
    systemd.kill(SIGKILL)
    assert systemd.ended() == -SIGKILL
    systemd.wait_for_processes()


def test_threads_that_no_worker_would_have_are_said(systemd: Systemd) -> None:
    systemd.deploy(more=THREAD)
    systemd.up(workers=1, preload_app=True)
    assert "poller" in systemd.record("config-warning")["message"]


def test_a_hung_worker_of_a_mold(systemd: Systemd) -> None:
    systemd.deploy(more=COUNTING)
    systemd.up(workers=1, preload_app=True, timeout=0.5)
    systemd.client().send("/spin")
    assert "in spin" in systemd.record("worker-hung", HTTP_PATH="/spin")["message"]
    assert systemd.get().version == "1"
    assert len(importers(systemd)) == 1
