"""venv: the workers run under its interpreter, whatever its version, and lack nothing there."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR2
from typing import Any

import pytest

from prefork_sd.errors import ExitCode
from tests.certificates import make
from tests.process import proc
from tests.process.pythons import Python, pythons, supported, too_old
from tests.process.systemd import ROOT, Systemd
from tests.process.test_asgi import deploy as deploy_asgi
from tests.process.test_load import Load
from tests.process.test_tls import served
from tests.process.test_tls import settings as tls_settings

PAGE = """
import sys
from importlib.machinery import PathFinder

def python(environ):
    known = PathFinder.find_spec("prefork_sd") is not None
    told = [sys.version_info[:3], sys.prefix, sys.executable, known, os.environ["VIRTUAL_ENV"]]
    return json.dumps(told).encode()

PAGES["/python"] = python
"""
HOOKS = """
import sys

def post_fork(server, worker):
    told = server.cfg.app, server.num_workers, server.pid, sys.version_info[:3]
    server.log.info("forked: %s", told)

def child_exit(server, worker):
    server.log.info("exited: %s", sys.version_info[:3])
"""
OTHER = supported()[0]  # of another version, where this machine has one
OWN = pythons()[-1]
PRELOAD = pytest.mark.parametrize("preload", [False, True], ids=["each", "preload"])


@pytest.fixture
def shop(systemd: Systemd) -> Systemd:
    """The service with an environment of another Python, not started."""
    systemd.deploy(more=PAGE)
    use(systemd, OTHER)
    return systemd


def use(systemd: Systemd, python: Python, *packages: str) -> Path:
    """Have `venv` lead to a new environment of that interpreter."""
    venv = python.make(systemd.folder / f"venv-{python}", *packages)
    link = systemd.site / "draft"
    link.symlink_to(venv)
    link.replace(systemd.site / "venv")
    return venv


def settings(**more: Any) -> dict[str, Any]:
    # the tests' own PYTHONPATH would lead to a prefork-sd
    return {"workers": 2, "venv": "venv", "env": {"PYTHONPATH": ""}, **more}


def told(systemd: Systemd) -> list[Any]:
    answer: list[Any] = json.loads(systemd.get("/python").text)
    return answer


@pytest.mark.parametrize("python", supported(), ids=str)
@PRELOAD
def test_every_python_that_is_here(systemd: Systemd, python: Python, preload: bool) -> None:
    systemd.deploy(more=PAGE)
    venv = use(systemd, python)
    systemd.up(**settings(preload_app=preload))
    version, prefix, executable, knows_us, virtual_env = told(systemd)
    assert version == list(python.version)
    assert (prefix, executable) == (str(venv), str(venv / "bin/python"))
    assert not knows_us
    assert virtual_env == str(venv)
    assert proc.title(systemd.workers()[0]) == "prefork-sd: worker [shop]"
    systemd.record(text=f"generation 1 runs under Python {python} of {systemd.site}/venv")


@PRELOAD
def test_a_request_in_hand_is_finished_at_a_stop(shop: Systemd, preload: bool) -> None:
    shop.up(**settings(preload_app=preload))
    client = shop.client().send("/wait")
    visitor = shop.knock("request")
    shop.kill(SIGTERM)
    shop.expect("STOPPING=1")
    visitor.release()
    assert client.answer().status == 200
    assert shop.ended() == 0


@PRELOAD
def test_a_worker_that_is_killed_is_replaced(shop: Systemd, preload: bool) -> None:
    shop.up(**settings(preload_app=preload))
    victim, _ = shop.workers()
    os.kill(victim, SIGKILL)
    shop.record("worker-killed", PREFORK_SD_WORKER_PID=victim)
    shop.expect("STATUS=serving: 2 of 2")
    assert told(shop)[0] == list(OTHER.version)


@PRELOAD
def test_a_hung_worker_leaves_its_stack(shop: Systemd, preload: bool) -> None:
    shop.up(**settings(workers=1, timeout=0.5, preload_app=preload))
    shop.client().send("/spin")
    message = shop.record("worker-hung", HTTP_PATH="/spin")["message"]
    assert "in spin" in message
    assert "/prefork_sd/" not in message
    assert "/proc/self" not in message
    assert shop.get().version == "1"


@pytest.mark.parametrize("python", dict.fromkeys([OTHER, OWN]), ids=str)
@PRELOAD
def test_an_import_that_fails_there(systemd: Systemd, python: Python, preload: bool) -> None:
    use(systemd, python)
    systemd.write("app.py", "import no_such_module\n")
    systemd.start(**settings(preload_app=preload))
    assert systemd.ended() == ExitCode.APP_LOAD_ERROR
    reason = systemd.said("STATUS")[-1].fields["STATUS"]
    assert "No module named 'no_such_module'" in reason
    assert f"(venv: {systemd.site}/venv, Python {python})" in reason
    (record,) = [one for one in systemd.all_records() if "Traceback" in one["message"]]
    assert "import no_such_module" in record["message"]
    assert "prefork_sd" not in record["message"]


@PRELOAD
def test_all_leave_when_the_arbiter_is_killed(shop: Systemd, preload: bool) -> None:
    shop.up(**settings(preload_app=preload))
    shop.kill(SIGKILL)
    assert shop.ended() == -SIGKILL
    shop.wait_for_processes()


def mold_of(systemd: Systemd) -> int:
    found = [pid for pid in systemd.processes() if "mold" in proc.title(pid)]
    assert len(found) == 1
    return found[0]


@PRELOAD
def test_a_mold_that_dies_is_made_anew(shop: Systemd, preload: bool) -> None:
    shop.up(**settings(preload_app=preload))
    first = mold_of(shop)
    os.kill(first, SIGKILL)
    shop.record(text="the mold of generation 1 was killed by SIGKILL")
    assert told(shop)[0] == list(OTHER.version)
    os.kill(shop.workers()[0], SIGKILL)
    shop.expect("STATUS=serving: 2 of 2")
    assert mold_of(shop) != first


@PRELOAD
def test_a_link_that_moves_to_another_python_loses_no_request(shop: Systemd, preload: bool) -> None:
    shop.up(**settings(preload_app=preload))
    load = Load(shop)
    for number, python in enumerate([OWN, OTHER, OWN], 2):
        if not (shop.folder / f"venv-{python}").exists():
            use(shop, python)
        else:
            (shop.site / "draft").symlink_to(shop.folder / f"venv-{python}")
            (shop.site / "draft").replace(shop.site / "venv")
        shop.deploy(str(number), PAGE)
        client = shop.run("reload", str(shop.yaml))
        assert {answer.status for answer in load.until(client)} == {200}
        assert client.status == 0, client.text
        assert told(shop)[0] == list(python.version)
        assert {shop.get().version for _ in range(4)} == {str(number)}
    assert not shop.all_records(level="error")


def test_a_re_exec_adopts_the_workers(shop: Systemd) -> None:
    shop.up(**settings())
    old = shop.workers()
    client = shop.client().send("/wait")
    visitor = shop.knock("request")
    load = Load(shop)
    shop.kill(SIGUSR2)
    shop.record(text="re-exec: adopted 2 workers")
    assert any(load.ask().pid not in old for _ in range(5000))
    visitor.release()
    assert client.answer().pid in old
    shop.record("reload-done")
    assert not set(old) & set(shop.workers())
    assert told(shop)[0] == list(OTHER.version)
    for pid in old:
        shop.record("worker-exited", PREFORK_SD_WORKER_PID=pid, PREFORK_SD_EXIT_STATUS=0)


def lost(venv: Path) -> str:
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to("/opt/nothing/python3")
    return "is gone: bin/python leads to /opt/nothing/python3, which does not exist"


def emptied(venv: Path) -> str:
    (venv / "bin/python").unlink()
    return "is not a virtual environment, it has no bin/python"


def removed(venv: Path) -> str:
    venv.rename(venv.with_name("elsewhere"))
    return "which does not exist"


def ancient(venv: Path) -> str:
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to(too_old()[0].path)
    return f"is of Python {too_old()[0]}, which is too old: it must be CPython 3.11 or newer"


def no_program(venv: Path) -> str:
    (venv / "bin/python").unlink()
    (venv / "bin/python").write_text("nothing that a kernel would run\n")
    (venv / "bin/python").chmod(0o755)
    return "bin/python does not start: Exec format error"


SPOILT = [lost, emptied, removed, no_program, *[ancient][: len(too_old())]]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_venv_that_will_not_do(shop: Systemd, spoil: Callable[[Path], str]) -> None:
    shop.up(**settings())
    before = shop.workers()
    says = spoil(shop.folder / f"venv-{OTHER}")
    done = shop.reload()
    assert done.status == 1
    assert "venv: " in done.text
    assert str(shop.folder) in done.text
    assert says in done.text
    assert shop.workers() == before
    assert shop.get().version == "1"
    checked = shop.done(shop.run("check", str(shop.yaml)))
    assert checked.status == ExitCode.CONFIG
    assert says in checked.text


def test_what_check_says(shop: Systemd) -> None:
    shop.configure(**settings())
    checked = shop.done(shop.run("check", str(shop.yaml)))
    assert checked.status == 0
    says = f"by 2 workers (SyncWorker, Python {OTHER} of {shop.site}/venv)"
    assert says in checked.text
    shop.write("app.py", "import no_such_module\n")
    checked = shop.done(shop.run("check", str(shop.yaml)))
    assert checked.status == ExitCode.APP_LOAD_ERROR
    assert "No module named 'no_such_module'" in checked.text
    assert f"(venv: {shop.site}/venv, Python {OTHER})" in checked.text
    shop.write("app.py", "import threading\nthreading.Event().wait()\n")
    shop.configure(**settings(boot_timeout=1))
    checked = shop.done(shop.run("check", str(shop.yaml)))
    assert checked.status == ExitCode.APP_LOAD_ERROR
    assert "the app did not boot in time (boot_timeout: 1 s)" in checked.text
    assert 'app.py", line 2 in <module>' in checked.text


def test_threads(shop: Systemd) -> None:
    shop.up(**settings(threads=3))
    assert told(shop)[0] == list(OTHER.version)


@PRELOAD
def test_asgi_takes_the_uvicorn_of_the_venv(systemd: Systemd, preload: bool) -> None:
    venv = use(systemd, OTHER, "uvicorn", "h11", "click", "typing_extensions")
    page = "async def which(scope):\n    import uvicorn\n    yield uvicorn.__file__.encode()\n"
    deploy_asgi(systemd, more=f'{page}PAGES["/which"] = which')
    systemd.up(**settings(preload_app=preload))
    assert systemd.get("/which").text.startswith(f"{venv}/lib/python3.{OTHER.version[1]}/")


def test_asgi_without_uvicorn_says_where_to_install_it(systemd: Systemd) -> None:
    use(systemd, OTHER)
    deploy_asgi(systemd)
    systemd.start(**settings())
    assert systemd.ended() == ExitCode.CONFIG
    assert (
        f"{systemd.site}/venv/bin/pip install uvicorn"
        in systemd.said("STATUS")[-1].fields["STATUS"]
    )


def test_an_interpreter_that_cannot_start_is_quoted(shop: Systemd) -> None:
    shop.up(**settings())
    shop.configure(**settings(env={"PYTHONPATH": "", "PYTHONHOME": "/opt/nothing"}))
    done = shop.reload()
    assert done.status == 1
    venv = shop.folder / f"venv-{OTHER}"
    assert f"venv: {venv}/bin/python does not start: " in done.text
    assert "No module named 'encodings'" in done.text
    assert shop.get().version == "1"


def test_what_an_interpreter_says_at_its_start_is_heard(shop: Systemd) -> None:
    (site,) = (shop.folder / f"venv-{OTHER}").glob("lib/python3*/site-packages")
    (site / "bad.pth").write_text("import no_such_module\n")
    shop.up(**settings())
    shop.hear(0.0)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in "\n".join(shop.noise)
    shop.noise.clear()


def test_tls(shop: Systemd, tmp_path: Path) -> None:
    shop.listen("https")
    pair = make(tmp_path, "shop")
    shop.up(**settings(**tls_settings(shop, pair)))
    assert served(shop, pair) == (pair.der, "1")


def test_hooks_run_on_both_sides(shop: Systemd) -> None:
    shop.write("hooks.py", HOOKS)
    shop.up(**settings(workers=1, hooks="hooks.py"))
    shop.record(text=f"forked: {('app:application', 1, shop.pid, OTHER.version)}")
    os.kill(shop.workers()[0], SIGKILL)
    shop.record(text=f"exited: {sys.version_info[:3]}")


def test_bytecode_is_cached_for_the_app_alone(shop: Systemd) -> None:
    before = foreign_bytecode()
    shop.environ["PYTHONDONTWRITEBYTECODE"] = ""
    shop.up(**settings())
    assert told(shop)[0] == list(OTHER.version)
    tag = f"cpython-3{OTHER.version[1]}"
    assert (shop.site / "__pycache__" / f"app.{tag}.pyc").exists()
    assert foreign_bytecode() == before


def foreign_bytecode() -> list[Path]:
    """What another version than ours has left in the package."""
    found = (ROOT / "prefork_sd").rglob("*.pyc")
    return sorted(path for path in found if f".{sys.implementation.cache_tag}." not in path.name)


def test_variables_of_env_reach_the_interpreter(shop: Systemd) -> None:
    page = 'PAGES["/flags"] = lambda environ: str(sys.flags.optimize).encode()'
    shop.deploy(more=f"{PAGE}\n{page}")
    shop.up(**settings(env={"PYTHONPATH": "", "PYTHONOPTIMIZE": "2"}))
    assert shop.get("/flags").text == "2"
