"""A start: READY=1 when requests are answered and not before, or the reason why not."""

import errno
import json
import os
from pathlib import Path

import pytest

from prefork_sd.errors import ExitCode
from tests.process import proc
from tests.process.systemd import Systemd


def test_ready_is_said_when_the_workers_accept_and_not_before(systemd: Systemd) -> None:
    systemd.deploy(more='knock("import")')
    systemd.start(workers=2)
    systemd.expect("EXTEND_TIMEOUT_USEC=")
    first, second = systemd.knock("import"), systemd.knock("import")
    systemd.expect("STATUS=booting: 0 of 2")
    first.release()
    systemd.record("worker-booted")
    systemd.expect("STATUS=booting: 1 of 2")
    assert not systemd.said("READY=1")
    second.release()
    ready = systemd.expect("READY=1")
    assert "STATUS=serving: 2 of 2" in ready
    assert systemd.get().version == "1"
    systemd.record("ready")
    assert len(systemd.said("READY=1")) == 1


def test_a_client_that_came_first_is_answered_by_the_first_worker(systemd: Systemd) -> None:
    listener = systemd.listen()
    early = systemd.client()
    early.send("/")
    systemd.up()
    assert early.answer().version == "1"
    assert listener.getsockname()[1] > 0


def test_every_listener_that_is_named_http_is_served(systemd: Systemd) -> None:
    systemd.listen("http", path="http.sock")
    systemd.listen("http")
    systemd.up()
    unix, tcp = systemd.client(0).get(), systemd.client(1).get()
    assert unix.version == tcp.version == "1"


def test_a_listener_of_an_unknown_name_is_closed_with_a_warning(systemd: Systemd) -> None:
    systemd.listen("admin")
    systemd.listen("http")
    systemd.up()
    assert "admin" in systemd.record("config-warning")["message"]
    assert systemd.client(1).get().version == "1"


def test_an_app_that_cannot_be_imported(systemd: Systemd) -> None:
    systemd.write("app.py", "def one():\n    import no_such_module\none()\n")
    systemd.start(workers=3)
    assert systemd.ended() == ExitCode.APP_LOAD_ERROR
    status = systemd.said("STATUS")[-1].fields
    assert "ModuleNotFoundError: No module named 'no_such_module'" in status["STATUS"]
    assert status["ERRNO"] == str(errno.EINVAL)
    told = systemd.all_records("worker-boot-failed")
    assert "line 2, in one" in told[0]["message"]
    assert "Traceback" in told[0]["message"]
    assert "/prefork_sd/" not in told[0]["message"]
    assert not systemd.said("READY=1")


def test_a_worker_that_exits_while_it_boots(systemd: Systemd) -> None:
    systemd.deploy(more="import os; os._exit(7)")
    systemd.start()
    assert systemd.ended() == ExitCode.WORKER_BOOT_ERROR
    assert (
        "exited with status 7 while it was booting" in systemd.said("STATUS")[-1].fields["STATUS"]
    )
    assert systemd.record("worker-boot-failed")["PREFORK_SD_EXIT_STATUS"] == 7


def test_a_worker_that_is_killed_while_it_boots(systemd: Systemd) -> None:
    systemd.deploy(more="import os; os.kill(os.getpid(), 9)")
    systemd.start()
    assert systemd.ended() == ExitCode.WORKER_BOOT_ERROR
    assert "SIGKILL while it was booting" in systemd.said("STATUS")[-1].fields["STATUS"]


def test_an_import_that_hangs_ends_the_start_with_the_stack(systemd: Systemd) -> None:
    systemd.deploy(more='def slow():\n    knock("import")\nslow()')
    systemd.start(workers=1, boot_timeout=1)
    systemd.knock("import")
    assert systemd.ended() == ExitCode.WORKER_BOOT_ERROR
    record = systemd.record("worker-boot-failed")
    assert "did not boot in time" in record["message"]
    assert "in slow" in record["message"]
    assert "did not boot in time" in systemd.said("STATUS")[-1].fields["STATUS"]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (
            "app: app:application\nwrokers: 3\n",
            2,
            'unknown setting "wrokers"; did you mean "workers"?',
        ),
        ("app: app:application\n\nworkers: -3\n", 3, "workers: must be at least"),
        ("app: app:application\nworkers: [1\n", 3, ""),
        ("app: app:application\ntimeout: soon\n", 2, "timeout: must be a time"),
        ("app: app application\n", 1, "app: "),
    ],
    ids=["unknown", "bound", "syntax", "kind", "app"],
)
def test_a_wrong_configuration(systemd: Systemd, text: str, line: int, reason: str) -> None:
    systemd.deploy()
    systemd.write("shop.yaml", text)
    systemd.start()
    assert systemd.ended() == ExitCode.CONFIG
    told = f"{systemd.yaml}:{line}: {reason}"
    assert told in systemd.record(level="crit")["message"]
    assert told in systemd.said("STATUS")[-1].fields["STATUS"]
    assert not systemd.said("READY=1")


def test_a_hook_that_refuses_the_start(systemd: Systemd) -> None:
    systemd.write("hooks.py", "def on_starting(server):\n    raise RuntimeError('not today')\n")
    systemd.start(hooks="hooks.py")
    assert systemd.ended() != 0
    told = "hook on_starting refused: RuntimeError: not today"
    assert told in systemd.said("STATUS")[-1].fields["STATUS"]
    assert told in systemd.record(level="crit")["message"]


def test_the_pid_file_is_there_while_the_service_is(systemd: Systemd) -> None:
    file = systemd.runtime / "shop.pid"
    file.write_text("999999999\n")  # of a service that died: no such process can be
    systemd.up(pidfile=str(file))
    assert file.read_text() == f"{systemd.pid}\n"
    assert systemd.stop() == 0
    assert not file.exists()


def test_a_pid_file_of_a_living_process_stops_the_start(systemd: Systemd) -> None:
    file = systemd.runtime / "shop.pid"
    file.write_text(f"{os.getpid()}\n")
    systemd.start(pidfile=str(file))
    assert systemd.ended() == ExitCode.CONFIG
    assert file.read_text() == f"{os.getpid()}\n"


def test_process_titles(systemd: Systemd) -> None:
    systemd.up(proc_name="till", workers=1)
    assert proc.title(systemd.pid) == "prefork-sd: master [till]"
    assert proc.title(systemd.workers()[0]) == "prefork-sd: worker [till]"


def test_an_environment_file_that_is_not_there(systemd: Systemd) -> None:
    systemd.start(env={"PASSWORD": "hunter2"}, env_file="shop.env")
    assert systemd.ended() == ExitCode.CONFIG
    assert "shop.env" in systemd.said("STATUS")[-1].fields["STATUS"]
    assert "hunter2" not in systemd.story()


def test_the_environment_of_the_app(systemd: Systemd) -> None:
    systemd.write("shop.env", "TASTE=sour\n")
    systemd.configure(env={"COLOR": "green"}, env_file="shop.env")
    systemd.start(watchdog=5)
    systemd.expect("READY=1")
    environ = json.loads(systemd.get("/environment").body)
    assert (environ["COLOR"], environ["TASTE"]) == ("green", "sour")
    private = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID",
               "LISTEN_FDNAMES"}  # fmt: skip
    assert not private & set(environ)


def test_a_worker_has_the_listeners_and_nothing_else_of_the_arbiter(systemd: Systemd) -> None:
    listener = systemd.listen()
    systemd.up(workers=2)
    systemd.reload()  # workers that were forked while a control client was connected
    arbiter = proc.files(systemd.pid)
    for pid in systemd.workers():
        files = proc.files(pid)
        assert list(files.values()).count(proc.inode(listener.fileno())) == 1
        sockets = {file for file in files.values() if file.startswith("socket:")}
        shared = sockets & set(arbiter.values())
        assert shared == {proc.inode(listener.fileno())}
        words = [file for file in files.values() if "last-words" in file]
        assert len(words) == 1
        assert not [file for file in files.values() if "prefork-sd-state" in file]


def test_a_service_of_many_reloads_keeps_its_descriptors_and_memory_files(
    systemd: Systemd,
) -> None:
    systemd.up(workers=2)
    systemd.reload()
    for _ in range(2):
        systemd.record("worker-exited")
    systemd.settle()
    before = len(proc.files(systemd.pid))
    for _ in range(5):
        assert systemd.reload().status == 0
    for _ in range(10):
        systemd.record("worker-exited")
    systemd.settle()
    assert len(proc.files(systemd.pid)) == before


def test_the_arbiter_never_imports_the_app(systemd: Systemd) -> None:
    systemd.deploy(more='open("imported", "a").write(f"{os.getpid()}\\n")')
    systemd.up(workers=2)
    assert systemd.reload().status == 0
    pids = [int(line) for line in Path(systemd.site / "imported").read_text().split()]
    assert len(pids) == 4
    assert systemd.pid not in pids
    assert "app.py" not in Path(f"/proc/{systemd.pid}/maps").read_text()
