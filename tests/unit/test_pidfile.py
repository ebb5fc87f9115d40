"""Real files and real pids."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork_sd.errors import ConfigError
from prefork_sd.pidfile import Pidfile

OURS = os.getpid()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.pid"


@pytest.fixture
def living() -> Iterator[int]:
    """The pid of a process that is not us, and lives until the test is over."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writer)
            os.read(reader, 1)
        finally:
            os._exit(0)
    os.close(reader)
    yield pid
    os.close(writer)
    os.waitpid(pid, 0)


def dead() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_create_and_unlink(path: Path) -> None:
    pidfile = Pidfile(path)
    pidfile.create(OURS)
    assert path.read_text() == f"{OURS}\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert pidfile.validate() == OURS
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208
    pidfile.unlink()
    assert not path.exists()


def test_our_own_is_fine(path: Path) -> None:
    Pidfile(path).create(OURS)
    Pidfile(path).create(OURS)
    assert path.read_text() == f"{OURS}\n"


@pytest.mark.parametrize("content", ["", "\n", "{dead}", "{dead}\n"])
def test_a_stale_one_is_replaced(path: Path, content: str) -> None:
    path.write_text(content.format(dead=dead()))
    assert Pidfile(path).validate() is None
    Pidfile(path).create(OURS)
    assert path.read_text() == f"{OURS}\n"


def test_someone_elses_is_named(path: Path, living: int) -> None:
    path.write_text(f"{living}\n")
    with pytest.raises(ConfigError, match=f"pidfile: {path}: process {living} is running"):
        Pidfile(path).create(OURS)
    assert path.read_text() == f"{living}\n"


def test_a_process_of_another_user_counts_as_living(tmp_path: Path) -> None:
    """Asked about the test run itself by a child without privileges, in a file it can reach."""
    if os.getuid() != 0:  # then pid 1 is another user's
        (tmp_path / "pid").write_text("1")
        assert Pidfile(tmp_path / "pid").validate() == 1
        return
    descriptor = os.memfd_create("pid")
    os.write(descriptor, b"%d" % OURS)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.fchmod(descriptor, 0o666)
            os.setuid(65534)
            code = 0 if Pidfile(f"/dev/fd/{descriptor}").validate() == OURS else 2
        finally:
            os._exit(code)
    os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("content", ["root:x:0:0:\n", "-1", "0", "1 2", "9" * 40])
def test_what_is_not_a_pid_file_is_left_alone(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError, match="is not a pid file"):
        Pidfile(path).create(OURS)
    assert path.read_text() == content


def test_a_vanished_file_is_no_error(path: Path) -> None:
    pidfile = Pidfile(path)
    assert pidfile.validate() is None
    pidfile.unlink()
    pidfile.create(OURS)
    path.unlink()
    pidfile.unlink()


def test_the_file_of_a_successor_stays(path: Path, living: int) -> None:
    pidfile = Pidfile(path)
    pidfile.create(OURS)
    path.write_text(f"{living}\n")
    pidfile.unlink()
    assert path.exists()


def test_a_child_does_not_remove_it(path: Path) -> None:
    pidfile = Pidfile(path)
    pidfile.create(OURS)
    child = os.fork()
    if child == 0:
        try:
            pidfile.unlink()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        Pidfile(tmp_path / "missing" / "pid").create(OURS)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Pidfile(tmp_path).create(OURS)


def test_a_relative_path_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pidfile = Pidfile("app.pid")
    monkeypatch.chdir("/")
    pidfile.create(OURS)
    assert (tmp_path / "app.pid").exists()
    pidfile.unlink()
