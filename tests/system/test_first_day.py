"""The whole way on a fresh machine: package, YAML, systemctl, a page, the journal."""

import re
import textwrap
import time
from pathlib import Path

import pytest

from tests.system.machine import Machine
from tests.system.service import Service

SLOW_TO_IMPORT = """
time.sleep(1)
with open(os.path.join(os.environ["STATE_DIRECTORY"], "imported"), "a") as file:
    file.write(f"{os.getpid()} {time.monotonic()}\\n")
"""

DJANGO = Path(__file__).with_name("django_site")


@pytest.fixture(scope="module")
def flask(machine: Machine) -> Service:
    service = Service(
        machine,
        "myapp",
        SLOW_TO_IMPORT,
        bind=["127.0.0.1:8001", "unix:/run/prefork-sd/myapp.sock"],
    )
    service.systemctl("start")
    return service


def test_start_returns_when_and_only_when_requests_are_answered(machine: Machine) -> None:
    service = Service(machine, "punctual", SLOW_TO_IMPORT)
    service.systemctl("start")
    returned = time.monotonic()
    imported = [float(line.split()[1]) for line in service.lines("imported")]
    assert len(imported) == 2
    assert max(imported) < returned < max(imported) + 1
    assert service.show("ActiveState") == "active"
    service.remove()


def test_the_page_comes_by_tcp_and_by_unix_socket(flask: Service) -> None:
    by_unix = ("--unix-socket", flask.unix)
    pages = {
        flask.machine.curl("http://127.0.0.1:8001/").out,
        flask.machine.curl("http://myapp/", *by_unix).out,
    }
    assert {page.split()[0] for page in pages} == {"1"}
    assert {int(page.split()[1]) for page in pages} <= flask.workers()


def test_status_tells_the_state_and_names_the_yaml(flask: Service) -> None:
    text = flask.systemctl("status").out
    assert flask.yaml in text
    status = re.search(r'Status: "(.*)"', text)
    assert status
    assert "2" in status[1]
    assert "worker" in status[1]
    assert "prefork-sd: master [myapp]" in text
    assert "prefork-sd: worker [myapp]" in text


def test_reload_serves_new_code(flask: Service) -> None:
    flask.deploy(flask.version("2"))
    flask.systemctl("reload")
    assert {flask.get().split()[0] for _ in range(20)} == {"2"}


def test_the_journal_tells_a_clean_story(machine: Machine) -> None:
    service = Service(machine, "story")
    service.systemctl("start")
    service.systemctl("reload")
    service.systemctl("stop")
    ours = [record for record in service.records() if record["_PID"] != "1"]
    for record in ours:
        assert int(record["PRIORITY"]) > 4, record["MESSAGE"]
        assert "\n" not in record["MESSAGE"]
    events = [record for record in ours if record["_TRANSPORT"] == "journal"]
    for record in events:
        assert record["PREFORK_SD_SERVICE"] == "story"
        assert re.fullmatch(r"[0-9a-f]{32}", record["MESSAGE_ID"])
    names = [record["PREFORK_SD_EVENT"] for record in events]
    assert [name for name in names if not name.startswith("worker-")] == [
        "start",
        "ready",
        "reload-begin",
        "reload-done",
        "stop",
    ]
    assert names.count("worker-booted") == 4
    assert names.count("worker-exited") == 4
    service.remove()


def test_stop_leaves_no_process(machine: Machine) -> None:
    service = Service(machine, "leaver")
    service.systemctl("start")
    pids = service.pids()
    assert len(pids) == 3
    service.systemctl("stop")
    assert service.show("Result") == "success"
    left = {int(pid) for pid in machine.run("ps -eo pid=").out.split()}
    assert not pids & left
    assert machine.run("pgrep -f '[p]refork-sd: .*leaver'", check=False).out == ""
    service.remove()


def test_django_keeps_its_database_in_the_state_directory(machine: Machine) -> None:
    for file in DJANGO.glob("*.py"):
        machine.write(f"/srv/blog/{file.name}", file.read_text())
    migrate = "/usr/bin/python3 /srv/blog/manage.py migrate --no-input"
    blog = Service(
        machine,
        "blog",
        app="wsgi:application",
        bind="127.0.0.1:8002",
        unit={"Service": {"ExecStartPre": migrate}},
    )
    blog.systemctl("start")
    jar = ("--fail", "--cookie", "/root/jar", "--cookie-jar", "/root/jar")
    pages = [machine.curl("http://127.0.0.1:8002/", *jar).out for _ in range(3)]
    blog.systemctl("restart")
    pages.append(machine.curl("http://127.0.0.1:8002/", *jar).out)
    assert pages == ["visit 1", "visit 2", "visit 3", "visit 4"]
    assert machine.run(f"ls {blog.state}/").out == "db.sqlite3\n"
    blog.remove()


def test_the_first_connection_starts_the_service(machine: Machine) -> None:
    lazy = Service(machine, "lazy", SLOW_TO_IMPORT)
    machine.run("systemctl start lazy.socket")
    assert lazy.show("ActiveState") == "inactive"
    assert lazy.get().split()[0] == "1"
    lazy.systemctl("start")  # waits for the start that is under way
    assert lazy.show("ActiveState") == "active"
    lazy.remove()


def test_an_application_that_cannot_be_imported(machine: Machine) -> None:
    broken = Service(machine, "broken", "import nothing_of_this_name")
    machine.run("systemctl start broken.socket")
    start = broken.systemctl("start", check=False)
    assert start.status != 0
    assert start.seconds < 2
    assert "No module named 'nothing_of_this_name'" in broken.show("StatusText")
    assert machine.show("broken.socket", "ActiveState") == "active"

    told = broken.records(MESSAGE="Traceback")
    assert told
    for record in told:
        assert "ModuleNotFoundError: No module named 'nothing_of_this_name'" in record["MESSAGE"]
        assert "/srv/broken/app.py" in record["MESSAGE"]
        assert record["PREFORK_SD_EVENT"] == "worker-boot-failed"

    command = f"exec curl -sS --max-time 50 --unix-socket {broken.unix} http://broken/"
    with machine.start(command, stdout=-1) as client:
        broken.deploy(textwrap.dedent(broken.code.replace("import nothing_of_this_name", "")))
        page, _ = client.communicate(timeout=60)
    assert page.split()[0] == "1"
    broken.systemctl("start")  # waits for the start that is under way
    assert broken.show("ActiveState") == "active"
    broken.remove()


@pytest.mark.parametrize("preload", [False, True])
def test_the_arbiter_never_imports_the_app(machine: Machine, preload: bool) -> None:
    name = "preloaded" if preload else "plain"
    service = Service(machine, name, "import sqlite3", SLOW_TO_IMPORT, preload_app=preload)
    service.systemctl("start")
    assert service.get().split()[0] == "1"
    importers = {int(line.split()[0]) for line in service.lines("imported")}
    assert len(importers) == (1 if preload else 2)
    assert service.main_pid not in importers
    assert "_sqlite3" not in machine.read(f"/proc/{service.main_pid}/maps")
    assert "_sqlite3" in machine.read(f"/proc/{min(importers)}/maps")
    service.remove()
