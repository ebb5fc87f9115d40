"""The quick start of the README, as somebody new follows it: its files, commands and output."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.machine import Done, Machine

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
QUICK_START = README.split("\n## Quick start\n")[1].split("\n## ")[0]
VARIES = re.compile(r"\b\d+\b|\d{4}-\d\d-\d\d .*")  # process numbers, times


def block(language: str, number: int = 0) -> str:
    """One of the quick start's blocks in that language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", QUICK_START, re.MULTILINE | re.DOTALL)
    return str(found[number])


def transcripts() -> dict[str, str]:
    """What the quick start shows of each command; of one that it has twice, the first."""
    shown: dict[str, str] = {}
    for text in re.findall(r"^```console\n(.*?)^```$", QUICK_START, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^# ", text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            shown.setdefault(command, output)
    return shown


SHOWN = transcripts()


def say(machine: Machine, command: str, status: int = 0) -> Done:
    """Say a command that the quick start has."""
    assert command in SHOWN
    done = machine.run(f"{command} 2>&1", check=False)
    assert done.status == status, done.out
    return done


def as_shown(machine: Machine, command: str, status: int = 0) -> None:
    """Say a command, and see what the quick start shows of it."""
    done = say(machine, command, status)
    assert VARIES.sub("N", done.out) == VARIES.sub("N", SHOWN[command])


@pytest.fixture
def app(machine: Machine) -> Iterator[Machine]:
    """A machine with the quick start's app."""
    machine.write("/srv/myapp/app.py", block("python"))
    yield machine
    machine.run("chmod 755 /srv/myapp; systemctl stop 'myapp.*'")
    machine.run("rm -rf /srv/myapp /etc/prefork-sd/myapp.yaml && systemctl daemon-reload")


def test_the_file_may_be_written_by_init(app: Machine) -> None:
    as_shown(app, "prefork-sd init /srv/myapp")


def test_from_the_first_page_to_a_deploy_that_goes_wrong(app: Machine) -> None:
    app.write("/etc/prefork-sd/myapp.yaml", block("yaml"))
    say(app, "systemctl daemon-reload")
    say(app, "systemctl start myapp")
    assert page(app) == "Hello, version 1\n"
    status = app.run("systemctl status myapp").out
    for line in SHOWN["systemctl status myapp"].splitlines():
        if line.startswith((" ", "●")) and "Active:" not in line:
            assert VARIES.sub("N", line) in VARIES.sub("N", status)
    told = [record["MESSAGE"] for record in app.journal("myapp.service") if record["_PID"] != "1"]
    shown = SHOWN["journalctl -u myapp -o cat"].splitlines()
    assert VARIES.sub("N", "\n".join(told)) == VARIES.sub("N", "\n".join(shown[1:4] + shown[5:]))

    app.run("chmod 750 /srv/myapp")
    as_shown(app, "prefork-sd check myapp", status=1)
    app.run("chmod 755 /srv/myapp")

    app.run("sed -i 's/import Flask/import Flsk/' /srv/myapp/app.py")
    as_shown(app, "systemctl reload myapp", status=1)
    assert page(app) == "Hello, version 1\n"
    reason = "cannot import name 'Flsk' from 'flask'"
    assert reason in say(app, "systemctl status myapp | grep Status").out
    assert reason in say(app, "prefork-sd reload myapp", status=1).out
    app.run("sed -i 's/import Flsk/import Flask/; s/version 1/version 2/' /srv/myapp/app.py")
    say(app, "systemctl reload myapp")
    assert page(app) == "Hello, version 2\n"


def page(machine: Machine) -> str:
    assert "curl http://127.0.0.1:8000/" in SHOWN
    return machine.curl("http://127.0.0.1:8000/").out
