"""In a container: PID 1 of its own namespace, no systemd, logs on standard error."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1, Signals

import pytest

from tests.process import proc
from tests.process.client import Client
from tests.process.systemd import Systemd

ORPHANS = """
import subprocess

def orphan(environ):
    # the shell leaves at once, and what it has started becomes a child of PID 1
    return subprocess.check_output(["sh", "-c", "tail -f /dev/null >/dev/null & echo $!"])

def kill(environ):
    os.kill(int(environ["QUERY_STRING"]), 9)
    return b"killed"

def look(environ):
    try:
        with open(f"/proc/{environ['QUERY_STRING']}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return b"gone"
    return f"child of {fields[1]}".encode() if fields[0] != "Z" else b"zombie"

PAGES.update({"/orphan": orphan, "/kill": kill, "/look": look})
"""


class Container:
    """A service whose arbiter is the first process of a PID namespace."""

    def __init__(self, systemd: Systemd) -> None:
        self.systemd = systemd
        self.socket = systemd.folder / "own.sock"
        self.arbiter = 0  # by the number that it has out here
        systemd.within = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        systemd.environ["NOTIFY_SOCKET"] = ""

    def start(self, log: str, ready: str) -> None:
        systemd = self.systemd
        systemd.environ["PREFORK_SD_LOG"] = log
        systemd.deploy("1", ORPHANS)
        systemd.start_command(
            "serve", "app:application", f"--bind=unix:{self.socket}",
            f"--directory={systemd.site}", "--workers=2",
        )  # fmt: skip
        systemd.wait(lambda: ready in systemd.story(), ready)
        (self.arbiter,) = proc.children(systemd.pid)

    def get(self, path: str = "/") -> str:
        client = Client.at(self.socket)
        answer = client.get(path)
        client.close()
        assert answer.status == 200
        return answer.text

    def kill(self, signum: Signals) -> None:
        os.kill(self.arbiter, signum)

    def stop(self) -> int:
        """TERM, as `docker stop` sends it; the exit status."""
        self.kill(SIGTERM)
        return self.systemd.ended()


@pytest.fixture
def container(systemd: Systemd) -> Iterator[Container]:
    container = Container(systemd)
    yield container
    if systemd.status_code is None:
        os.kill(container.arbiter, SIGKILL)
        systemd.ended()
    systemd.noise.clear()  # what it was to say is for the tests


def test_it_is_pid_1_and_stops_when_told(container: Container) -> None:
    container.start("json", "ready: 2 workers")
    status = container.systemd.status()
    assert status["pid"] == 1
    assert {worker["pid"] for worker in status["workers"]} >= {int(container.get().split()[1])}
    assert container.stop() == 0
    assert not container.socket.exists()


def test_orphans_of_the_app_are_reaped(container: Container) -> None:
    container.start("json", "ready: 2 workers")
    orphan = container.get("/orphan").strip()
    assert container.get(f"/look?{orphan}") == "child of 1"
    container.get(f"/kill?{orphan}")
    for _ in range(2):  # its loop has turned twice since then
        container.kill(SIGUSR1)
        container.systemd.record(text="serving: ")
    assert container.get(f"/look?{orphan}") == "gone"
    assert not container.systemd.all_records("worker-killed")
    assert container.stop() == 0


def test_its_log_is_lines_of_text(container: Container) -> None:
    container.start("", "ready: 2 workers")
    assert container.stop() == 0
    noise = container.systemd.noise
    assert noise
    for line in noise:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO  \S", line), line
    assert any(line.endswith("stopping") for line in noise)
    assert not container.systemd.records


def test_its_log_is_lines_of_json(container: Container, tmp_path: Path) -> None:
    container.start("json", "ready: 2 workers")
    assert container.stop() == 0
    systemd = container.systemd
    assert not systemd.noise
    for record in systemd.records:
        assert {"time", "level", "service", "message"} <= set(record)
        assert "\n" not in json.dumps(record)
    events = [record.get("PREFORK_SD_EVENT") for record in systemd.records]
    assert [one for one in events if one in ("start", "ready", "stop")] == [
        "start",
        "ready",
        "stop",
    ]


def test_the_container_ends_with_its_arbiter(container: Container) -> None:
    container.start("json", "ready: 2 workers")
    inside = proc.session(container.systemd.pid)
    assert len(inside) == 4
    container.kill(SIGKILL)
    container.systemd.ended()
    for pid in inside:
        container.systemd.gone(pid)
