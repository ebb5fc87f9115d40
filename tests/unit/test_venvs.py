"""Virtual environments on disk: which interpreter one has, and what is said when it has none."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork_sd import venvs
from prefork_sd.errors import ConfigError

NOBODY = 65534


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with this interpreter, and nothing else in it."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(sys.executable)
    return tmp_path / "venv"


def refusal(venv: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        venvs.interpreter(str(venv))
    return str(caught.value)


def test_the_interpreter_is_named_by_its_path_in_the_environment(venv: Path) -> None:
    assert venvs.interpreter(str(venv)) == venv / "bin/python"


def test_a_link_to_the_environment_is_resolved(venv: Path) -> None:
    link = venv.with_name("current")
    link.symlink_to(venv)
    assert venvs.interpreter(str(link)) == venv / "bin/python"


def relinked(venv: Path, target: str) -> None:
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to(target)


def emptied(venv: Path) -> None:
    (venv / "bin/python").unlink()


def lost(venv: Path) -> None:
    relinked(venv, "/opt/nothing/python3")


def hidden(venv: Path) -> None:
    relinked(venv, "/home/nobody-here/python3")


def no_program(venv: Path) -> None:
    relinked(venv, os.devnull)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (emptied, "{venv} is not a virtual environment, it has no bin/python; make it by: "),
        (lost, "the interpreter of {venv} is gone: bin/python leads to /opt/nothing/python3, "
               "which does not exist; make it by: "),
        (hidden, "leads to /home/nobody-here/python3, which does not exist or is hidden by "
                 "ProtectHome=yes; make it by: "),
        (no_program, "the interpreter of {venv}, /dev/null, is not an executable; make it by: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(venv: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(venv)
    said = refusal(venv)
    assert said.startswith("venv: ")
    assert says.format(venv=venv) in said
    assert said.endswith(f"python3 -m venv {venv}")


def test_only_an_environment_is_to_be_cleared(venv: Path) -> None:
    (venv / "pyvenv.cfg").touch()
    emptied(venv)
    assert refusal(venv).endswith(f"python3 -m venv --clear {venv}")


def test_no_environment_is_put_where_something_else_is(venv: Path) -> None:
    (venv / "manage.py").touch()
    emptied(venv)
    assert refusal(venv).endswith("is not a virtual environment, it has no bin/python; "
                                  "name the folder of one")  # fmt: skip


def test_an_environment_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "venv").startswith(f"venv: {tmp_path}/venv does not exist; make it")
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "gone")
    says = f"venv: {link} leads to {tmp_path}/gone, which does not exist; make it by"
    assert refusal(link).startswith(says)


def test_an_environment_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    says = f"venv: {tmp_path}/file/venv cannot be reached (Not a directory); make it by"
    assert refusal(tmp_path / "file/venv").startswith(says)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions count meanwhile, also where root runs the tests."""
    me = os.geteuid()
    os.seteuid(me or NOBODY)
    try:
        yield
    finally:
        os.seteuid(me)


@pytest.mark.parametrize("closed", ["venv", "venv/bin"])
def test_an_environment_that_is_closed(closed: str) -> None:
    """Nothing is to be made anew then; and that there are no packages is not the message."""
    with tempfile.TemporaryDirectory() as top:  # pytest's own folders are closed to others
        Path(top).chmod(0o755)
        venv = Path(top, "venv")
        (venv / "bin").mkdir(parents=True)
        (venv / "bin/python").symlink_to(sys.executable)
        Path(top, closed).chmod(0)
        with unprivileged():
            said, packages = refusal(venv), venvs.packages(str(venv))
        Path(top, closed).chmod(0o700)
    says = f'venv: {venv} cannot be reached (Permission denied); "prefork-sd check" says what opens'
    assert said.startswith(says)
    assert packages is None


def test_packages_for_our_version_go_first(venv: Path) -> None:
    assert venvs.packages(str(venv)) is None
    other = venv / "lib/python3.99/site-packages"
    other.mkdir(parents=True)
    assert venvs.packages(str(venv)) == other
    ours = venv / f"lib/{venvs.OURS}/site-packages"
    ours.mkdir(parents=True)
    assert venvs.packages(str(venv)) == ours


def test_its_programs_are_found_first(venv: Path) -> None:
    environ = venvs.activated(venv / "bin/python", {"PATH": "/usr/bin", "LANG": "C"})
    assert environ == {"PATH": f"{venv}/bin:/usr/bin", "LANG": "C", "VIRTUAL_ENV": str(venv)}
