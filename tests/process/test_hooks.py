"""The server hooks: called in their order, with their arguments, and contained."""

from signal import SIGINT, SIGTTIN

from prefork_sd.hooks import ARGUMENTS
from tests.process.systemd import Systemd

# each hook writes: its name, whether the arbiter ran it, and what its arguments are
RECORDING = """
import os

def note(name, arguments):
    kinds = [type(one).__name__ if hasattr(one, "__dict__") else repr(one) for one in arguments]
    with open(os.path.join({folder!r}, "called"), "a") as file:
        file.write(f"{{os.getpid()}} {{name}} {{' '.join(kinds)}}\\n")
"""
# on_exit and child_exit: those, too
RAISING = "def {name}({arguments}):\n    raise RuntimeError('oh {name}')\n"


def recording(systemd: Systemd) -> str:
    text = RECORDING.format(folder=str(systemd.folder))
    for name, arguments in ARGUMENTS.items():
        listed = ", ".join(arguments)
        text += f"def {name}({listed}):\n    note({name!r}, [{listed}])\n\n"
    return text


def calls(systemd: Systemd) -> list[tuple[int, str, list[str]]]:
    """(pid, hook, kinds of the arguments), in their order."""
    found = []
    for line in (systemd.folder / "called").read_text().splitlines():
        pid, name, *kinds = line.split()
        found.append((int(pid), name, kinds))
    return found


def of(systemd: Systemd, pid: int) -> list[str]:
    return [name for who, name, _ in calls(systemd) if who == pid]


def test_hooks_run_in_their_order_where_they_belong(systemd: Systemd) -> None:
    systemd.write("hooks.py", recording(systemd))
    systemd.up(workers=1, hooks="hooks.py")
    assert of(systemd, systemd.pid) == ["on_starting", "nworkers_changed", "pre_fork", "when_ready"]
    worker = systemd.get().pid
    assert systemd.stop() == 0
    assert of(systemd, worker) == [
        "post_fork", "post_worker_init", "pre_request", "post_request", "worker_exit",
    ]  # fmt: skip
    assert of(systemd, systemd.pid)[4:] == ["child_exit", "on_exit"]


def test_hooks_of_a_reload(systemd: Systemd) -> None:
    systemd.write("hooks.py", recording(systemd))
    systemd.up(workers=1, hooks="hooks.py")
    start = len(of(systemd, systemd.pid))
    assert systemd.reload().status == 0
    systemd.record("worker-exited")
    systemd.settle()
    assert of(systemd, systemd.pid)[start:] == ["on_reload", "pre_fork", "child_exit"]


def test_hooks_get_their_arguments(systemd: Systemd) -> None:
    systemd.write("hooks.py", recording(systemd))
    systemd.up(workers=1, hooks="hooks.py")
    systemd.kill(SIGTTIN)
    systemd.expect("STATUS=serving: 2 of 2")
    client = systemd.client()
    client.get()
    client.get()  # when it is answered, all of the first one is over
    systemd.stop(SIGINT)
    kinds = {name: kinds for _, name, kinds in calls(systemd)}
    for name in ("on_starting", "when_ready", "on_exit"):
        assert kinds[name] == ["Arbiter"]
    for name in ("pre_fork", "post_fork", "worker_exit", "child_exit"):
        assert kinds[name] == ["Arbiter", "SyncWorker"]
    for name in ("post_worker_init", "worker_int"):
        assert kinds[name] == ["SyncWorker"]
    changes = [kinds for _, name, kinds in calls(systemd) if name == "nworkers_changed"]
    assert changes[:2] == [["Arbiter", "1", "None"], ["Arbiter", "2", "1"]]
    assert kinds["pre_request"][0] == kinds["post_request"][0] == "SyncWorker"
    assert len(kinds["post_request"]) >= 4


def test_worker_abort_runs_in_a_worker_that_hangs(systemd: Systemd) -> None:
    systemd.write("hooks.py", recording(systemd))
    systemd.up(workers=1, timeout=0.5, hooks="hooks.py")
    systemd.client().send("/spin")
    pid = systemd.record("worker-hung")["PREFORK_SD_WORKER_PID"]
    assert of(systemd, pid)[-1] == "worker_abort"


def test_what_a_hook_raises_is_on_record_and_goes_no_further(systemd: Systemd) -> None:
    contained = [name for name in ARGUMENTS if name not in ("on_starting", "pre_fork", "pre_exec")]
    text = "\n".join(
        RAISING.format(name=name, arguments=", ".join(ARGUMENTS[name])) for name in contained
    )
    systemd.write("hooks.py", text)
    systemd.up(workers=1, hooks="hooks.py")
    assert systemd.get().version == "1"
    systemd.deploy("2")
    assert systemd.reload().status == 0
    assert systemd.get().version == "2"
    assert systemd.stop(SIGINT) == 0
    failed = {record["PREFORK_SD_HOOK"] for record in systemd.all_records("hook-failed")}
    assert failed == set(contained) - {"worker_abort"}
    told = systemd.record("hook-failed", PREFORK_SD_HOOK="when_ready")["message"]
    assert "RuntimeError: oh when_ready" in told
    assert "hooks.py" in told


def test_a_hook_that_exits_takes_nobody_with_it(systemd: Systemd) -> None:
    names = ("when_ready", "child_exit", "pre_request", "post_request")
    text = [
        f"def {name}({', '.join(ARGUMENTS[name])}):\n    raise SystemExit(9)\n" for name in names
    ]
    systemd.write("hooks.py", "".join(text))
    systemd.up(workers=1, threads=2, hooks="hooks.py")
    pid = systemd.get().pid
    assert systemd.get().pid == pid
    assert systemd.reload().status == 0
    for name in names:
        assert "SystemExit: 9" in systemd.record("hook-failed", PREFORK_SD_HOOK=name)["message"]


def test_pre_fork_may_refuse(systemd: Systemd) -> None:
    systemd.up(workers=1)
    systemd.write("hooks.py", "def pre_fork(server, worker):\n    raise RuntimeError('enough')\n")
    systemd.configure(workers=1, hooks="hooks.py")
    done = systemd.reload()
    assert done.status == 1
    assert "pre_fork refused: RuntimeError: enough" in done.text
    assert systemd.get().version == "1"


def test_a_hook_by_its_dotted_path_is_no_import_of_the_app(systemd: Systemd) -> None:
    systemd.write("shop_hooks.py", recording(systemd))
    systemd.up(workers=1, hooks={"when_ready": "shop_hooks:when_ready"})
    assert of(systemd, systemd.pid) == ["when_ready"]
