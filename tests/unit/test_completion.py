"""The completion of bash: it knows what the command line knows, and the declared services."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from prefork_sd import cli
from prefork_sd.config import ACCESS_LOGS, LOG_LEVELS
from prefork_sd.values import WORKER_CLASSES

TOP = Path(__file__).parents[2]
COMPLETION = TOP / "packaging" / "completion.bash"


@pytest.fixture
def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    for action in cli.parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("there are no commands")


class Shell:
    """A bash with the completion, and a `prefork-sd` that is the checkout's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = folder / "services"
        self.services.mkdir()
        program = folder / "prefork-sd"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m prefork_sd "$@"\n')
        program.chmod(0o755)

    def complete(self, *words: str) -> list[str]:
        """What the completion offers for the last of the words."""
        line = shlex.join(words)
        script = (
            f"source {shlex.quote(str(COMPLETION))}; COMP_WORDS=({line}); "
            f"COMP_CWORD={len(words) - 1}; _prefork_sd; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        environment = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(TOP),
            "PREFORK_SD_CONFIG_PATH": f"{self.services}:/nowhere",
        }
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert done.stderr == ""
        return done.stdout.split()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_it_offers_every_command(
    shell: Shell, commands: dict[str, argparse.ArgumentParser]
) -> None:
    assert sorted(shell.complete("prefork-sd", "")) == sorted(commands)
    assert shell.complete("prefork-sd", "st") == ["status"]


def test_it_offers_every_option(shell: Shell, commands: dict[str, argparse.ArgumentParser]) -> None:
    for name, parser in commands.items():
        options = {word for action in parser._actions for word in action.option_strings}
        offered = shell.complete("prefork-sd", name, "--")
        assert set(offered) == {word for word in options if word.startswith("--")}


@pytest.mark.parametrize("command", ["run", "check", "reload", "scale", "status", "unit"])
def test_it_offers_the_declared_services(shell: Shell, command: str) -> None:
    for name in ("shop", "blog"):
        (shell.services / f"{name}.yaml").touch()
    (shell.services / "notes.txt").touch()
    assert sorted(shell.complete("prefork-sd", command, "")) == ["blog", "shop"]
    assert shell.complete("prefork-sd", command, "sh") == ["shop"]
    assert shell.complete("prefork-sd", command, "shop", "") == []


def test_it_offers_python_files_to_import(shell: Shell) -> None:
    (shell.folder / "gunicorn.conf.py").touch()
    assert shell.complete("prefork-sd", "import", "gun") == ["gunicorn.conf.py"]


def test_it_offers_a_yaml_file_of_this_folder(shell: Shell) -> None:
    (shell.folder / "mine.yaml").touch()
    assert shell.complete("prefork-sd", "run", "mi") == ["mine.yaml"]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--log-level", LOG_LEVELS),
        ("--access-log", ACCESS_LOGS),
        ("--worker-class", WORKER_CLASSES),
    ],
)
def test_it_offers_the_values_that_are_few(
    shell: Shell, option: str, values: tuple[str, ...]
) -> None:
    assert sorted(shell.complete("prefork-sd", "serve", option, "")) == sorted(values)
