"""A reload is a transaction: the new release serves, or the old one goes on and we hear why."""

import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.process.systemd import Systemd

GRUMPY = "def post_fork(server, worker):\n    raise SystemExit(3)\n"


def test_a_reload_serves_the_new_code(systemd: Systemd) -> None:
    systemd.up(workers=2)
    old = systemd.workers()
    systemd.deploy("2")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    done = systemd.reload()
    assert (done.status, done.text[:12]) == (0, "generation 2")
    assert {systemd.get().version for _ in range(10)} == {"2"}
    reloading = systemd.expect("RELOADING=1")
    assert before <= int(reloading.fields["MONOTONIC_USEC"]) <= int(reloading.at * 1e6)
    ready = systemd.expect("READY=1")
    assert "STATUS=serving: 2 of 2 workers ready, generation 2" in ready
    assert len(systemd.said("ERRNO=0")) == 1
    assert len(systemd.said("READY=1")) == 2
    for pid in old:
        systemd.record("worker-exited", PREFORK_SD_WORKER_PID=pid, PREFORK_SD_EXIT_STATUS=0)


def test_sighup_is_a_reload_too(systemd: Systemd) -> None:
    systemd.up(workers=2)
    systemd.deploy("2")
    systemd.hup()
    systemd.expect("RELOADING=1", "MONOTONIC_USEC=")
    systemd.expect("READY=1", "STATUS=serving: 2 of 2 workers ready, generation 2")
    assert {systemd.get().version for _ in range(10)} == {"2"}
    systemd.record("reload-done", PREFORK_SD_GENERATION=2)


def test_the_old_release_serves_until_the_new_one_is_ready(systemd: Systemd) -> None:
    systemd.up(workers=2)
    old = systemd.workers()
    systemd.deploy("2", 'knock("import")')
    client = systemd.run("reload", str(systemd.yaml))
    systemd.expect("RELOADING=1")
    assert int(systemd.expect("EXTEND_TIMEOUT_USEC=").fields["EXTEND_TIMEOUT_USEC"]) > 60_000_000
    canary = systemd.knock("import")
    assert {systemd.get().version for _ in range(6)} == {"1"}
    assert systemd.workers() == old
    assert systemd.workers("booting") == [canary.pid]
    canary.release()
    second = systemd.knock("import")
    assert len(systemd.workers()) >= 2  # never fewer than wanted
    assert client.status is None
    second.release()
    assert systemd.done(client).status == 0
    assert {systemd.get().version for _ in range(6)} == {"2"}


def test_a_client_is_answered_while_all_is_replaced(systemd: Systemd) -> None:
    systemd.up(workers=1)
    waiting = systemd.client().send("/large", close=True)
    inside = systemd.knock("request")
    systemd.deploy("2")
    assert systemd.reload().status == 0  # the old one does not accept any more
    assert systemd.get().version == "2"
    inside.release()
    assert len(waiting.answer().body) == 3_000_000
    systemd.record("worker-exited", PREFORK_SD_WORKER_PID=inside.pid, PREFORK_SD_EXIT_STATUS=0)


def test_an_idle_client_is_told_that_its_connection_ends(systemd: Systemd) -> None:
    systemd.up(workers=1)
    client = systemd.client()
    old = client.get().pid
    systemd.deploy("2")
    assert systemd.reload().status == 0
    last = client.get()
    assert (last.version, last.pid) == ("1", old)
    assert last.headers["Connection"] == "close"
    systemd.record("worker-exited", PREFORK_SD_WORKER_PID=old)


def spoil_import(systemd: Systemd) -> None:
    systemd.write("app.py", "import no_such_module\n")


def spoil_syntax(systemd: Systemd) -> None:
    systemd.write("shop.yaml", "app: app:application\nworkers: [1\n")


def spoil_key(systemd: Systemd) -> None:
    systemd.configure(wrokers=3)


def spoil_by_hanging(systemd: Systemd) -> None:
    systemd.configure(boot_timeout=1)
    systemd.deploy("2", 'def stuck():\n    knock("import")\nstuck()')


def spoil_hook(systemd: Systemd) -> None:
    systemd.write("hooks.py", GRUMPY)
    systemd.configure(hooks="hooks.py")


def spoil_arity(systemd: Systemd) -> None:
    systemd.write("hooks.py", "def post_fork(server):\n    pass\n")
    systemd.configure(hooks="hooks.py")


def spoil_by_deleting(systemd: Systemd) -> None:
    (systemd.site / "app.py").unlink()


def spoil_by_death(systemd: Systemd) -> None:
    systemd.deploy("2", "import os; os.kill(os.getpid(), 11)")


def spoil_by_leaving(systemd: Systemd) -> None:
    systemd.deploy("2", "raise SystemExit('no license')")


def spoil_file(systemd: Systemd) -> None:
    systemd.yaml.unlink()


@pytest.mark.parametrize(
    ("spoil", "reasons"),
    [
        (spoil_import, ["ModuleNotFoundError: No module named 'no_such_module'", "line 1"]),
        (spoil_syntax, ["shop.yaml:3: not valid YAML"]),
        (spoil_key, ['shop.yaml:3: unknown setting "wrokers"; did you mean "workers"?']),
        (spoil_by_hanging, ["did not boot in time", "in stuck"]),
        (spoil_hook, ["sys.exit(3)"]),
        (spoil_arity, ["post_fork(server, worker)"]),
        (spoil_by_deleting, ["ModuleNotFoundError: No module named 'app'"]),
        (spoil_by_death, ["SIGSEGV while it was booting"]),
        (spoil_by_leaving, ["no license"]),
        (spoil_file, ["shop.yaml"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_bad_reload_changes_nothing_and_says_why(
    systemd: Systemd, spoil: Callable[[Systemd], None], reasons: list[str]
) -> None:
    systemd.up(workers=2)
    old = systemd.workers()
    spoil(systemd)
    done = systemd.reload()
    assert done.status == 1
    for reason in reasons:
        assert reason in done.text
    systemd.expect("RELOADING=1", "MONOTONIC_USEC=")
    failed = systemd.expect("ERRNO=")
    assert failed.fields["ERRNO"] != "0"
    systemd.expect("READY=1", "STATUS=serving: 2 of 2 workers ready, generation 1")
    status = systemd.status()["status"]
    assert "the last reload failed: " in status
    assert reasons[0] in status
    verdict = systemd.record("reload-failed")
    for reason in reasons:
        assert reason in verdict["message"]
    assert {systemd.get().version for _ in range(6)} == {"1"}
    assert systemd.workers() == old

    systemd.configure(workers=2)
    systemd.deploy("3")
    assert systemd.reload().status == 0
    assert {systemd.get().version for _ in range(6)} == {"3"}
    assert "failed" not in systemd.status()["status"]
    assert systemd.said("ERRNO=")[-1].fields["ERRNO"] == "0"


def test_no_text_can_forge_a_message_to_systemd(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.write("app.py", 'raise ValueError("broken\\nSTOPPING=1\\n\\x00\\udcff" * 200)\n')
    assert systemd.reload().status == 1
    assert not systemd.said("STOPPING=1")
    for message in systemd.said("STATUS="):
        assert len(message.fields["STATUS"]) <= 300
    assert "broken STOPPING=1" in systemd.said("STATUS=")[-1].fields["STATUS"]
    assert systemd.get().version == "1"


def test_two_reloads_at_once_are_both_answered(systemd: Systemd) -> None:
    systemd.up(workers=2)
    systemd.deploy("2", 'knock("import")')
    first = systemd.run("reload", str(systemd.yaml))
    systemd.knock("import")
    systemd.deploy("3")
    second = systemd.run("reload", str(systemd.yaml))
    systemd.done(second)
    systemd.done(first)
    assert (first.status, second.status) == (0, 0)
    assert {systemd.get().version for _ in range(6)} == {"3"}
    assert systemd.expect("RELOADING=1").at < systemd.expect("READY=1").at
    assert len(systemd.said("READY=1")) == 2  # the start's and the reloads' one


def test_two_reloads_at_once_that_fail_are_both_told(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.deploy("2", 'knock("import")\nraise KeyError("price")')
    first = systemd.run("reload", str(systemd.yaml))
    systemd.knock("import")
    second = systemd.run("reload", str(systemd.yaml))
    systemd.knock("import").release()
    for client in (first, second):
        assert systemd.done(client).status == 1
        assert "KeyError: 'price'" in client.text
    assert systemd.get().version == "1"


def test_hup_during_a_reload_starts_over_with_the_newest_files(systemd: Systemd) -> None:
    systemd.up(workers=2)
    systemd.deploy("2", 'knock("import")')
    client = systemd.run("reload", str(systemd.yaml))
    canary = systemd.knock("import")
    systemd.deploy("3")
    systemd.hup()
    assert systemd.done(client).status == 0
    assert {systemd.get().version for _ in range(6)} == {"3"}
    systemd.gone(canary.pid)


def test_hup_during_the_roll_over(systemd: Systemd) -> None:
    systemd.up(workers=3)
    systemd.deploy("2", 'knock("import")')
    systemd.hup()
    systemd.knock("import").release()
    systemd.record("worker-booted", PREFORK_SD_GENERATION=2)
    systemd.knock("import")  # the second worker of generation 2 boots
    systemd.deploy("3")
    systemd.hup()
    systemd.record("reload-done", PREFORK_SD_GENERATION=3)
    assert {systemd.get().version for _ in range(9)} == {"3"}
    assert len(systemd.workers()) == 3


def test_a_client_that_vanishes_changes_nothing(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.deploy("2", 'knock("import")')
    client = systemd.run("reload", str(systemd.yaml))
    canary = systemd.knock("import")
    systemd.cancel(client)
    canary.release()
    systemd.record("reload-done")
    assert systemd.get().version == "2"


def test_a_late_failure_is_told_while_the_old_workers_stay(systemd: Systemd) -> None:
    systemd.up(workers=2)
    once = 'import pathlib\nif pathlib.Path("full").exists(): raise OSError("no room")\n'
    systemd.deploy("2", f'{once}open("full", "w").close()')
    done = systemd.reload()
    assert done.status == 1
    assert "no room" in done.text
    assert "will be tried again" in done.text
    assert {systemd.get().version for _ in range(8)} <= {"1", "2"}
    assert len(systemd.workers()) >= 2
    (systemd.site / "full").unlink()
    systemd.deploy("3")
    systemd.wait(lambda: "failed" not in systemd.status()["status"], "healing by itself", 20.0)
    assert {systemd.get().version for _ in range(8)} <= {"2", "3"}
    assert systemd.reload().status == 0
    assert {systemd.get().version for _ in range(8)} == {"3"}


def test_everything_is_read_afresh(systemd: Systemd) -> None:
    releases = systemd.folder / "releases"
    for version in ("1", "2"):
        systemd.deploy(version)
        (releases / version).mkdir(parents=True)
        (systemd.site / "app.py").rename(releases / version / "app.py")
    systemd.deploy("0")  # beside the YAML: not the app that is meant
    current = systemd.folder / "current"
    current.symlink_to(releases / "1")
    systemd.write("shop.env", "TASTE=sour\n")
    systemd.configure(directory=str(current), env_file="shop.env", workers=1)
    systemd.start()
    systemd.expect("READY=1")
    assert systemd.get().version == "1"
    point(current, releases / "2")
    systemd.write("shop.env", "TASTE=sweet\n")
    systemd.configure(directory=str(current), env_file="shop.env", workers=3)
    assert systemd.reload().status == 0
    assert {systemd.get().version for _ in range(6)} == {"2"}
    assert '"TASTE": "sweet"' in systemd.get("/environment").text
    assert len(systemd.workers()) == 3


def point(link: Path, target: Path) -> None:
    """Swap a symlink in one step, as deployments do."""
    draft = link.with_suffix(".new")
    draft.symlink_to(target)
    draft.replace(link)


def test_what_a_reload_cannot_change_is_said_with_the_command_that_can(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.configure(workers=1, bind="127.0.0.1:1", pidfile="/run/other.pid")
    reload = systemd.reload()
    assert reload.status == 0
    verdict, *notes = reload.text.splitlines()
    assert "generation 2 serves" in verdict
    assert ["bind" in notes[0], "pidfile" in notes[1]] == [True, True]
    socket = systemd.record("config-warning", "cannot change bind")
    assert "systemctl restart shop.socket" in socket["message"]
    service = systemd.record("config-warning", "cannot change pidfile")
    assert "systemctl restart shop" in service["message"]


def test_a_reload_during_a_stop_is_refused(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.client().send("/wait", close=True)
    inside = systemd.knock("request")
    systemd.kill(SIGTERM)
    systemd.expect("STOPPING=1")
    done = systemd.reload()
    assert done.status == 1
    assert "stopping" in done.text
    inside.release()
    assert systemd.ended() == 0
    assert not systemd.said("RELOADING=1")


def test_a_stop_while_the_canary_hangs(systemd: Systemd) -> None:
    systemd.up(workers=2)
    systemd.deploy("2", 'knock("import")')
    client = systemd.run("reload", str(systemd.yaml))
    systemd.knock("import")
    assert systemd.stop() == 0
    assert systemd.done(client).status == 1
    assert "stopped" in client.text
    order = [name for message in systemd.messages for name in ("READY", "STOPPING")
             if f"{name}=1" in message]  # fmt: skip
    assert order == ["READY", "READY", "STOPPING"]


def test_a_reload_during_the_start_waits_for_it(systemd: Systemd) -> None:
    systemd.deploy("1", 'knock("import")')
    systemd.start(workers=1)
    systemd.knock("import")
    systemd.deploy("2")
    client = systemd.run("reload", str(systemd.yaml))
    assert systemd.done(client).status == 0
    systemd.expect("READY=1")
    assert systemd.get().version == "2"
