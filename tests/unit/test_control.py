"""A server with real clients on a real socket; the test is the arbiter's loop."""

import json
import os
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import inf
from pathlib import Path

import pytest

from prefork_sd import asking, control
from prefork_sd.asking import ControlError, UnreachableError
from prefork_sd.control import Call, ControlServer
from prefork_sd.errors import ConfigError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(tmp_path: Path, clock: Clock) -> Iterator[ControlServer]:
    server = ControlServer(tmp_path / "control", clock)
    server.bind()
    yield server
    server.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def client(server: ControlServer, stack: ExitStack) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.settimeout(10)
    sock.connect(str(server.path))
    return sock


def turn(server: ControlServer) -> list[Call]:
    """What the arbiter does, until nothing is left to do."""
    calls = []
    while ready := poll(server, 0):
        for fd, events in ready:
            if events & ~select.POLLOUT:
                calls += server.on_readable(fd)
            if events & select.POLLOUT:
                server.on_writable(fd)
    return calls


def poll(server: ControlServer, milliseconds: int) -> list[tuple[int, int]]:
    poll = select.poll()
    for fd, events in server.fds().items():
        poll.register(fd, events)
    return poll.poll(milliseconds)


def message(method: str, parameters: object = None, **flags: bool) -> bytes:
    return json.dumps({"method": method, "parameters": parameters or {}, **flags}).encode() + b"\0"


def read(sock: socket.socket, count: int = 1) -> list[dict[str, object]]:
    data = b""
    while data.count(b"\0") < count:
        more = sock.recv(65536)
        assert more, f"closed after {data!r}"
        data += more
    return [json.loads(part) for part in data.split(b"\0")[:-1]]


STATUS = message("io.prefork.sd.Status")
RELOAD = message("io.prefork.sd.Reload")


def test_a_call_and_its_reply(server: ControlServer, stack: ExitStack) -> None:
    sock = client(server, stack)
    sock.sendall(message("io.prefork.sd.Scale", {"workers": 3}))
    (call,) = turn(server)
    assert (call.method, call.parameters) == ("io.prefork.sd.Scale", {"workers": 3})
    assert not call.more
    call.reply({"workers": 3})
    assert read(sock) == [{"parameters": {"workers": 3}}]
    call.reply({"workers": 4})
    sock.sendall(STATUS)
    turn(server)[0].error("io.prefork.sd.ReloadFailed", {"reason": "no"})
    assert read(sock) == [{"error": "io.prefork.sd.ReloadFailed", "parameters": {"reason": "no"}}]


def test_a_call_that_arrives_byte_by_byte(server: ControlServer, stack: ExitStack) -> None:
    sock = client(server, stack)
    for byte in STATUS[:-1]:
        sock.sendall(bytes([byte]))
        assert turn(server) == []
    sock.sendall(STATUS[-1:])
    assert len(turn(server)) == 1


def test_answers_go_out_in_the_order_of_the_calls(server: ControlServer, stack: ExitStack) -> None:
    sock = client(server, stack)
    sock.sendall(RELOAD + message("io.systemd.service.Ping") + STATUS)
    reload, status = turn(server)
    status.reply({"pid": 1})
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    reload.reply({"generation": 2})
    sock.settimeout(10)
    assert [reply["parameters"] for reply in read(sock, 3)] == [{"generation": 2}, {}, {"pid": 1}]


def test_progress_is_for_who_asked_for_it(server: ControlServer, stack: ExitStack) -> None:
    eager, plain = client(server, stack), client(server, stack)
    eager.sendall(message("io.prefork.sd.Reload", more=True))
    plain.sendall(RELOAD)
    for call in turn(server):
        call.reply({"message": "booting"}, continues=True)
        call.reply({"message": "done"})
    assert read(eager, 2) == [
        {"parameters": {"message": "booting"}, "continues": True},
        {"parameters": {"message": "done"}},
    ]
    assert read(plain) == [{"parameters": {"message": "done"}}]


def test_oneway_gets_no_answer(server: ControlServer, stack: ExitStack) -> None:
    sock = client(server, stack)
    sock.sendall(message("io.prefork.sd.Reload", oneway=True) + STATUS)
    reload, status = turn(server)
    assert reload.oneway
    reload.reply({"generation": 2})
    status.reply({"pid": 1})
    assert read(sock) == [{"parameters": {"pid": 1}}]


def test_introspection_needs_no_arbiter(server: ControlServer, stack: ExitStack) -> None:
    sock = client(server, stack)
    sock.sendall(message("org.varlink.service.GetInfo") + message("io.prefork.sd.Fly"))
    assert turn(server) == []
    info, error = read(sock, 2)
    assert "io.prefork.sd" in str(info)
    assert error["error"] == "org.varlink.service.MethodNotFound"


def test_a_vanished_client_changes_nothing(server: ControlServer, stack: ExitStack) -> None:
    sock = client(server, stack)
    sock.sendall(RELOAD)
    (call,) = turn(server)
    sock.close()
    call.reply({"message": "still there?"}, continues=True)
    assert turn(server) == []
    call.reply({"generation": 2})
    assert list(server.fds()) == [server.fileno()]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\0", b"{}\0", b"x" * 70000, STATUS * 40])
def test_nonsense_closes_that_connection_only(
    server: ControlServer, stack: ExitStack, data: bytes
) -> None:
    good, bad = client(server, stack), client(server, stack)
    turn(server)
    bad.sendall(data)
    assert turn(server) == []
    assert ended(bad)
    good.sendall(STATUS)
    assert len(turn(server)) == 1


def ended(sock: socket.socket) -> bool:
    """Whether the other side has closed; with unread bytes left that is a reset."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_as_many_connections_as_may_be(server: ControlServer, stack: ExitStack) -> None:
    socks = [client(server, stack) for _ in range(control.MOST_CONNECTIONS + 1)]
    turn(server)
    assert len(server.fds()) == control.MOST_CONNECTIONS
    assert server.fileno() not in server.fds()
    socks[-1].sendall(STATUS)
    assert turn(server) == []
    socks[0].close()
    assert len(turn(server)) == 1


def test_idle_connections_expire(server: ControlServer, stack: ExitStack, clock: Clock) -> None:
    idle, waiting = client(server, stack), client(server, stack)
    waiting.sendall(RELOAD)
    (call,) = turn(server)
    assert server.next_deadline() == 1060
    clock.now = 1059.9
    server.expire(clock.now)
    assert len(server.fds()) == 3
    clock.now = 1060
    server.expire(clock.now)
    assert len(server.fds()) == 2
    assert idle.recv(1) == b""
    assert server.next_deadline() == inf
    call.reply()
    assert read(waiting) == [{"parameters": {}}]
    assert server.next_deadline() == 1120


def test_bytes_without_a_call_do_not_keep_a_connection(
    server: ControlServer, stack: ExitStack, clock: Clock
) -> None:
    sock = client(server, stack)
    turn(server)
    clock.now += 50
    sock.sendall(b"{")
    turn(server)
    assert server.next_deadline() == 1060


def test_a_client_that_does_not_read(server: ControlServer, stack: ExitStack, clock: Clock) -> None:
    sock = client(server, stack)
    text = "x" * 900_000
    sock.sendall(STATUS)
    turn(server)[0].reply({"text": text})
    (fd,) = server.fds().keys() - {server.fileno()}
    assert server.wants_write(fd)
    assert server.fds()[fd] & select.POLLOUT
    assert server.next_deadline() == 1060
    received = b""
    while not received.endswith(b"\0"):
        received += sock.recv(65536)
        turn(server)
    assert json.loads(received[:-1]) == {"parameters": {"text": text}}
    assert not server.wants_write(fd)
    sock.sendall(STATUS)
    turn(server)[0].reply({"text": text * 3})
    assert not server.wants_write(fd)
    assert list(server.fds()) == [server.fileno()]


def test_without_descriptors_the_listener_rests(
    server: ControlServer, stack: ExitStack, clock: Clock
) -> None:
    sock = client(server, stack)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        assert server.on_readable(server.fileno()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.fds() == {}
    assert server.next_deadline() == 1001
    clock.now = 1001
    sock.sendall(STATUS)
    assert len(turn(server)) == 1


def test_descriptors_that_are_not_ours_are_no_error(server: ControlServer) -> None:
    assert server.on_readable(12345) == []
    server.on_writable(12345)
    assert not server.wants_write(12345)
    assert server.on_readable(server.fileno()) == []


def test_the_socket_is_for_its_owner_and_goes_at_the_end(server: ControlServer) -> None:
    assert server.path is not None
    assert server.path.stat().st_mode & 0o777 == 0o600
    server.close()
    assert not server.path.exists()
    assert server.fileno() == -1


def test_a_child_leaves_the_parents_door_open(server: ControlServer, stack: ExitStack) -> None:
    sock = client(server, stack)
    sock.sendall(RELOAD)
    (call,) = turn(server)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            server.close_in_child()
            call.reply({"from": "the child"})
            code = 0 if server.fds() == {} else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    call.reply({"from": "the parent"})
    assert read(sock) == [{"parameters": {"from": "the parent"}}]
    assert server.path is not None
    assert server.path.exists()


def test_bind_replaces_a_stale_socket_only(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    first = ControlServer(path)
    first.bind()
    with pytest.raises(ConfigError, match=r"control: cannot listen on .*another process listens"):
        ControlServer(path).bind()
    first.close()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        ControlServer(path).bind()
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/no/such/control", "No such file"), ("/tmp/" + "x" * 120, "too long")],
)
def test_bind_says_why_not(path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        ControlServer(path).bind()


def test_a_socket_that_listens_already(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "control"
    given = stack.enter_context(socket.socket(socket.AF_UNIX))
    given.bind(str(path))
    given.listen()
    server = ControlServer(given)
    server.bind()
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.connect(str(path))
    sock.sendall(STATUS)
    assert len(turn(server)) == 1
    server.close()
    assert path.exists()


# ---- the client's side


def serve(server: ControlServer, answer: Callable[[Call], None]) -> threading.Thread:
    """Answer one call in a thread, within 10 seconds."""

    def run() -> None:
        calls: list[Call] = []
        while not calls and (ready := poll(server, 10_000)):
            for fd, _ in ready:
                calls += server.on_readable(fd)
        for call in calls:
            answer(call)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_client_gets_the_reply(server: ControlServer) -> None:
    assert server.path is not None
    thread = serve(server, lambda call: call.reply({"got": call.parameters}))
    reply = asking.call(server.path, "io.prefork.sd.Scale", {"workers": 2}, timeout=10)
    assert reply == {"got": {"workers": 2}}
    thread.join()


def test_the_client_raises_the_error(server: ControlServer) -> None:
    assert server.path is not None
    told = {"reason": "cannot import", "details": "Traceback"}
    thread = serve(server, lambda call: call.error("io.prefork.sd.ReloadFailed", told))
    with pytest.raises(ControlError, match=r"^cannot import$") as caught:
        asking.call(server.path, "io.prefork.sd.Reload", timeout=10)
    assert caught.value.name == "io.prefork.sd.ReloadFailed"
    assert caught.value.parameters == told
    thread.join()


def test_an_error_without_a_reason_is_told_whole() -> None:
    assert str(ControlError("a.B", {"parameter": "x"})) == "a.B: parameter=x"
    assert str(ControlError("a.B", {})) == "a.B"


def test_nobody_there(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with pytest.raises(UnreachableError, match="the service is not running"):
        asking.call(path, "io.prefork.sd.Status", timeout=10)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(ConnectionError, match="the service is not running"):
        asking.call(path, "io.prefork.sd.Status", timeout=10)


def test_a_service_that_is_silent(server: ControlServer) -> None:
    assert server.path is not None
    with pytest.raises(UnreachableError, match=r"did not answer within 0\.05 s"):
        asking.call(server.path, "io.prefork.sd.Status", timeout=0.05)


def test_a_service_that_goes_away_in_the_middle(server: ControlServer) -> None:
    assert server.path is not None
    thread = serve(server, lambda call: call.connection.close())
    with pytest.raises(UnreachableError, match="went away before it answered"):
        asking.call(server.path, "io.prefork.sd.Reload", timeout=10)
    thread.join()


def test_something_else_answers(server: ControlServer) -> None:
    assert server.path is not None

    def answer(call: Call) -> None:
        call.connection.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\0")

    thread = serve(server, answer)
    with pytest.raises(UnreachableError, match="does not speak Varlink"):
        asking.call(server.path, "io.prefork.sd.Status", timeout=10)
    thread.join()


def test_not_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What connect says to a user without rights, which root cannot provoke."""

    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(UnreachableError, match="permission denied"):
        asking.call(tmp_path / "control", "io.prefork.sd.Status", timeout=10)
