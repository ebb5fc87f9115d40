"""The test owns the notify socket: what systemd would read is what is checked."""

import array
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_sd import notify
from prefork_sd.errors import ConfigError
from prefork_sd.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(tmp_path / "notify"))
        yield sock


def notifier(manager: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname()})


def test_reloading_and_the_clock_are_one_datagram(manager: socket.socket) -> None:
    assert notifier(manager).send(notify.reloading(12.5, "reading"), notify.errno(0))
    lines = manager.recv(4096).decode().split("\n")
    assert lines == ["RELOADING=1", "MONOTONIC_USEC=12500000", "STATUS=reading", "ERRNO=0"]


def test_messages_merge() -> None:
    message = notify.ready("serving") | notify.watchdog() | notify.extend(1.5)
    assert message == {
        "READY": "1",
        "STATUS": "serving",
        "WATCHDOG": "1",
        "EXTEND_TIMEOUT_USEC": "1500000",
    }
    assert notify.stopping("bye") | notify.restart_reset() == {
        "STOPPING": "1",
        "STATUS": "bye",
        "RESTART_RESET": "1",
    }


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        name = f"prefork-sd-test-{os.getpid()}"
        sock.bind("\0" + name)
        assert Notifier({"NOTIFY_SOCKET": "@" + name}).send(notify.watchdog())
        assert sock.recv(4096) == b"WATCHDOG=1"


def test_file_descriptors_ride_along(manager: socket.socket) -> None:
    reader, writer = os.pipe()
    assert notifier(manager).send({"FDSTORE": "1", "FDNAME": "state"}, fds=[reader])
    data, ancillary, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(16))
    assert data == b"FDSTORE=1\nFDNAME=state"
    fds = array.array("i")
    fds.frombytes(ancillary[0][2])
    os.write(writer, b"x")
    assert os.read(fds[0], 1) == b"x"
    for fd in (reader, writer, *fds):
        os.close(fd)


def test_without_the_variable_it_says_nothing() -> None:
    quiet = Notifier({})
    assert not quiet.enabled
    assert not quiet.send(notify.watchdog())
    assert quiet.lost == 0


def test_a_manager_that_is_gone_costs_the_message_only(manager: socket.socket) -> None:
    ours = notifier(manager)
    Path(manager.getsockname()).unlink()
    assert not ours.send(notify.watchdog())
    assert ours.lost == 1


def test_a_manager_that_does_not_read_never_blocks_us(manager: socket.socket) -> None:
    ours = notifier(manager)
    most = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    sent = sum(ours.send(notify.watchdog()) for _ in range(most + 10))
    assert 0 < sent <= most + 1
    assert ours.lost == most + 10 - sent
    while select.select([manager], [], [], 0)[0]:
        manager.recv(4096)
    assert ours.send(notify.watchdog())


def test_what_systemd_would_drop_is_not_sent(manager: socket.socket) -> None:
    ours = notifier(manager)
    assert not ours.send({f"X_{number}": "y" * 290 for number in range(20)})
    assert ours.lost == 1


def test_close_makes_it_silent(manager: socket.socket) -> None:
    ours = notifier(manager)
    ours.close()
    assert not ours.enabled
    assert not ours.send(notify.watchdog())


def test_the_socket_is_not_inherited_by_programs(manager: socket.socket) -> None:
    ours = notifier(manager)
    assert ours._socket is not None
    assert not ours._socket.get_inheritable()


@pytest.mark.parametrize("value", ["vsock:2:1234", "notify", "@", "/", "/" + "x" * 200])
def test_a_bad_variable_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET"):
        Notifier({"NOTIFY_SOCKET": value})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("two\nREADY=1", "two READY=1"),
        ("\ttab \x1b[31mred\x1b[0m\r\n", "tab [31mred [0m"),
        ("lone \udc80 surrogate", "lone ? surrogate"),
        ("line\u2028separator", "line separator"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert notify.one_line(text) == line


def test_a_long_text_ends_in_an_ellipsis() -> None:
    assert notify.one_line("x" * 301) == "x" * 299 + "…"
    assert notify.one_line("x" * 300) == "x" * 300


@given(st.text() | st.text(alphabet=st.characters()))
def test_whatever_comes_a_status_is_one_valid_line(text: str) -> None:
    line = notify.status(text)["STATUS"]
    assert len(line) <= 300
    assert line.isprintable()
    assert line.encode().decode() == line
    assert notify.one_line(line) == line


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "7"}, 2.0),
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": ""}, 0.0),
        ({"WATCHDOG_PID": "7"}, 0.0),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": "7"}, 0.0),
        ({"WATCHDOG_USEC": "-5", "WATCHDOG_PID": "7"}, 0.0),
        ({"WATCHDOG_USEC": "soon", "WATCHDOG_PID": "7"}, 0.0),
        ({"WATCHDOG_USEC": "1" * 40, "WATCHDOG_PID": "7"}, 0.0),
    ],
)
def test_watchdog_period(environ: dict[str, str], seconds: float) -> None:
    assert notify.watchdog_period(environ, 7) == seconds
