"""The linters are tests: ruff, its formatter, and mypy in its strict mode."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent  # not resolved: the tools of a venv are beside its python


@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check"], ["mypy", "--strict"]],
    ids=" ".join,
)
def test_there_is_nothing_to_say(command: list[str]) -> None:
    program, *arguments = command
    done = subprocess.run(
        [str(TOOLS / program), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
