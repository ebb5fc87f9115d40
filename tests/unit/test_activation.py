"""Real programs started with real descriptors: a child calls hand_on, execs, and tells."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefork_sd.activation import VARIABLES, hand_on, inherited

ROOT = Path(__file__).parents[2]

# argv: names and fds as JSON, variables to overwrite as JSON
STARTER = """
import json, os, sys
from prefork_sd.activation import hand_on
environ = dict(os.environ)
hand_on([(name, fd) for name, fd in json.loads(sys.argv[1])], environ, os.getpid())
environ |= json.loads(sys.argv[2])
os.execve(sys.executable, [sys.executable, "-c", sys.argv[3]], environ)
"""

TELLER = """
import json, os
from prefork_sd.activation import VARIABLES, inherited
from prefork_sd.errors import ConfigError
try:
    got = inherited(os.environ, os.getpid())
except ConfigError as error:
    print(json.dumps({"error": str(error)}))
    raise SystemExit
def is_open(fd):
    try:
        return bool(os.fstat(fd))
    except OSError:
        return False
fds = [fd for _, fd in got.listeners] + list(got.memory.values())
print(json.dumps({
    "listeners": [name for name, _ in got.listeners],
    "inodes": [os.fstat(fd).st_ino for fd in fds],
    "memory": {name: os.pread(fd, 100, 0).decode() for name, fd in got.memory.items()},
    "warnings": got.warnings,
    "open": [fd for fd in range(3, 9) if is_open(fd)],
    "taken": fds,
    "exposed": [fd for fd in fds if os.get_inheritable(fd) or os.get_blocking(fd)],
    "left": [name for name in VARIABLES if name in os.environ],
}))
"""


@dataclass
class Told:
    listeners: list[str]
    inodes: list[int]
    memory: dict[str, str]
    warnings: list[str]
    open: list[int]
    taken: list[int]
    exposed: list[int]
    left: list[str]


def start(fds: list[tuple[str, int]], **overwrite: str) -> Told | str:
    """Start a program with `fds` named; what it says it got, or its ConfigError."""
    done = subprocess.run(
        [sys.executable, "-c", STARTER, json.dumps(fds), json.dumps(overwrite), TELLER],
        pass_fds=[fd for _, fd in fds],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=True,
    )
    told = json.loads(done.stdout)
    return str(told["error"]) if "error" in told else Told(**told)


def memfd(text: str) -> int:
    fd = os.memfd_create("test")
    os.write(fd, text.encode())
    return fd


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]


def test_listeners_and_memory_by_name(sockets: list[socket.socket]) -> None:
    one, two, three = sockets
    state = memfd("counters")
    fds = [("http", one.fileno()), ("state", state), ("http", two.fileno())]
    told = start([*fds, ("status", three.fileno())])
    assert isinstance(told, Told)
    assert told.listeners == ["http", "http", "status"]
    assert told.memory == {"state": "counters"}
    order = [one.fileno(), two.fileno(), three.fileno(), state]
    assert told.inodes == [os.fstat(fd).st_ino for fd in order]
    assert told.taken == [3, 5, 6, 4]
    assert told.open == [3, 4, 5, 6]
    assert told.exposed == []
    assert told.left == []
    assert told.warnings == []
    os.close(state)


def test_targets_that_are_sources_do_not_clobber_each_other(sockets: list[socket.socket]) -> None:
    """In the child the sources sit at 3, 4, 5 already, and are wanted in another order."""
    starter = """
import os, sys
from prefork_sd.activation import hand_on
environ = dict(os.environ)
for number, fd in enumerate(sorted(map(int, sys.argv[1].split(",")), reverse=True)):
    os.dup2(fd, 20 + number)
for number in range(3):
    os.dup2(20 + number, 3 + number)
hand_on([("http", 5), ("http", 3), ("status", 4)], environ, os.getpid())
os.execve(sys.executable, [sys.executable, "-c", sys.argv[2]], environ)
"""
    numbers = [sock.fileno() for sock in sockets]
    done = subprocess.run(
        [sys.executable, "-c", starter, ",".join(map(str, numbers)), TELLER],
        pass_fds=numbers,
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=True,
    )
    told = Told(**json.loads(done.stdout))
    at = [os.fstat(fd).st_ino for fd in sorted(numbers, reverse=True)]
    assert told.inodes == [at[2], at[0], at[1]]


def test_a_descriptor_that_stays_in_its_place_is_inherited(sockets: list[socket.socket]) -> None:
    """dup2(3, 3) would keep close-on-exec."""
    starter = """
import os, sys
from prefork_sd.activation import hand_on
environ = dict(os.environ)
os.dup2(int(sys.argv[1]), 3, inheritable=False)
hand_on([("http", 3)], environ, os.getpid())
os.execve(sys.executable, [sys.executable, "-c", sys.argv[2]], environ)
"""
    fd = sockets[0].fileno()
    done = subprocess.run(
        [sys.executable, "-c", starter, str(fd), TELLER],
        pass_fds=[fd],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert Told(**json.loads(done.stdout)).inodes == [os.fstat(fd).st_ino]


def test_undo_puts_back_what_had_the_numbers(sockets: list[socket.socket]) -> None:
    """Undone in the same process: the descriptors of this very test run survive it."""
    before = opened()
    inodes = [os.fstat(sock.fileno()).st_ino for sock in sockets]
    environ = {"LISTEN_PIDFDID": "9", "OTHER": "x"}
    undo = hand_on([("http", sock.fileno()) for sock in sockets], environ, 7)
    there = [opened()[fd] for fd in (3, 4, 5)]
    assert environ == {
        "LISTEN_FDS": "3",
        "LISTEN_FDNAMES": "http:http:http",
        "LISTEN_PID": "7",
        "OTHER": "x",
    }
    undo()
    assert there == [(inode, True) for inode in inodes]
    assert opened() == before
    assert environ == {"LISTEN_PIDFDID": "9", "OTHER": "x"}


def opened() -> dict[int, tuple[int, bool]]:
    """Inode and inheritability of each descriptor of this process."""
    found: dict[int, tuple[int, bool]] = {}
    for fd in range(512):
        with contextlib.suppress(OSError):
            found[fd] = (os.fstat(fd).st_ino, os.get_inheritable(fd))
    return found


def test_nothing_for_us_is_nothing() -> None:
    environ = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "LISTEN_PID": str(os.getpid() + 1)}
    got = inherited(environ, os.getpid())
    assert (got.listeners, got.memory, got.warnings) == ([], {}, [])
    assert environ == {}
    assert inherited({}, os.getpid()).listeners == []


def test_unknown_ones_are_closed_and_told(sockets: list[socket.socket]) -> None:
    odd = os.eventfd(0)
    pair = socket.socketpair()
    first, second = memfd("1"), memfd("2")
    fds = [
        ("blog.socket", sockets[0].fileno()),
        ("odd", odd),
        ("pair", pair[0].fileno()),
        ("state", first),
        ("state", second),
        ("http", sockets[1].fileno()),
    ]
    told = start(fds)
    assert isinstance(told, Told)
    assert told.listeners == ["http"]
    assert told.memory == {"state": "1"}
    assert "FileDescriptorName=http" in told.warnings[0]
    assert '"blog.socket"' in told.warnings[0]
    assert '"odd"' in told.warnings[1]
    assert '"pair"' in told.warnings[2]
    assert "twice" in told.warnings[3]
    assert len(told.warnings) == 4
    assert told.open == [6, 8]
    for fd in (odd, first, second):
        os.close(fd)
    for sock in pair:
        sock.close()


@pytest.mark.parametrize("name", ["http", "status"])
def test_what_is_named_as_a_listener_has_to_be_one(name: str) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        socket.socket(socket.AF_INET) as deaf,
        open(os.devnull, "rb") as file,  # noqa: PTH123
    ):
        datagram.bind(("127.0.0.1", 0))
        deaf.bind(("127.0.0.1", 0))
        reasons = [start([(name, item.fileno())]) for item in (datagram, deaf, file)]
    for reason, why in zip(
        reasons, ["is not a stream socket", "does not listen", "is not a socket"], strict=True
    ):
        assert isinstance(reason, str)
        assert f'named "{name}" but {why}' in reason


def test_variables_that_make_no_sense(sockets: list[socket.socket]) -> None:
    fds = [("http", sockets[0].fileno())]
    for overwrite in ({"LISTEN_FDS": "many"}, {"LISTEN_FDNAMES": "http:more"}):
        text = start(fds, **overwrite)
        assert isinstance(text, str)
        assert text.startswith("LISTEN_FDS: cannot take the descriptors from systemd")


def test_more_descriptors_told_than_given(sockets: list[socket.socket]) -> None:
    text = start([("http", sockets[0].fileno())], LISTEN_FDS="3", LISTEN_FDNAMES="http:http:http")
    assert isinstance(text, str)
    assert "LISTEN_FDS" in text
    assert "Bad file descriptor" in text


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "ä"])
def test_names_that_systemd_does_not_take(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        hand_on([(name, 0)], {}, 1)


def test_all_variables_of_the_protocol_are_known() -> None:
    assert {"LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"} < set(VARIABLES)
