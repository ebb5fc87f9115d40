"""Real sockets and socket files; the client is the test."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_sd import listeners
from prefork_sd.errors import ConfigError
from prefork_sd.listeners import Address, Listener, adopt, bind, disagreements, parse


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", Address(socket.AF_INET, "127.0.0.1", 8000)),
        ("8000", Address(socket.AF_INET, "127.0.0.1", 8000)),
        ("localhost:0", Address(socket.AF_INET, "localhost", 0)),
        ("my-host.example.org:65535", Address(socket.AF_INET, "my-host.example.org", 65535)),
        ("[::1]:80", Address(socket.AF_INET6, "::1", 80)),
        ("unix:/run/x.sock", Address(socket.AF_UNIX, path="/run/x.sock")),
        ("/run/x.sock", Address(socket.AF_UNIX, path="/run/x.sock")),
        ("unix:@x", Address(socket.AF_UNIX, path="@x")),
    ],
)
def test_parse(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "unix:/path"),
        ("localhost", "127.0.0.1:8000"),
        ("host:port", "127.0.0.1:8000"),
        (":8000", '"0.0.0.0:8000" and "[::]:8000"'),
        ("*:8000", '"0.0.0.0:8000" and "[::]:8000"'),
        ("::1:8000", "brackets"),
        ("[::1", "brackets"),
        ("[::1]", "brackets"),
        ("[1.2.3.4]:80", "not an IPv6 address"),
        ("127.0.0.1:65536", "between 0 and 65535"),
        ("127.0.0.1:" + "9" * 5000, "between 0 and 65535"),
        ("127.0.0.1:٣", "127.0.0.1:8000"),
        ("٣", "127.0.0.1:8000"),
        ("unix:x.sock", "absolute"),
        ("unix:", "absolute"),
        ("unix:/a\0b", "absolute"),
        ("/" + "x" * 107, "at most 107 bytes"),
        ("http://127.0.0.1:80", "127.0.0.1:8000"),
    ],
)
def test_parse_says_what_would_be_right(text: str, hint: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse(text)
    assert hint in str(caught.value)


@given(st.text())
def test_parse_never_fails_in_another_way(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert address.path or 0 <= address.port <= 65535


def test_tcp(stack: ExitStack) -> None:
    ours = stack.enter_context(closing(bind("127.0.0.1:0", 5)))
    port = ours.sock.getsockname()[1]
    assert ours.address == f"127.0.0.1:{port}"
    assert (ours.server_name, ours.server_port) == ("127.0.0.1", str(port))
    assert (ours.name, ours.ours, ours.is_unix) == ("http", True, False)
    assert not ours.sock.get_inheritable()
    assert not ours.sock.getblocking()
    stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
    accepted = stack.enter_context(ours.sock.accept()[0])
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_localhost_is_ipv4_first(stack: ExitStack) -> None:
    assert stack.enter_context(closing(bind("localhost:0", 5))).server_name == "127.0.0.1"


def test_both_families_on_one_port(stack: ExitStack) -> None:
    six = stack.enter_context(closing(bind("[::]:0", 5, name="status")))
    four = stack.enter_context(closing(bind(f"0.0.0.0:{six.server_port}", 5)))
    assert six.address == f"[::]:{four.server_port}"
    assert six.server_name == "[::]"
    assert six.name == "status"


def test_a_port_is_free_again_at_once(stack: ExitStack) -> None:
    first = bind("127.0.0.1:0", 5)
    client = stack.enter_context(socket.create_connection(first.sock.getsockname(), timeout=5))
    accepted = first.sock.accept()[0]
    port = first.server_port
    accepted.close()  # closing first leaves TIME_WAIT behind on our side
    first.close()
    client.close()
    stack.enter_context(closing(bind(port, 5)))


def test_unix(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "s"
    ours = bind(f"unix:{path}", 5, mode=0o600)
    assert ours.address == f"unix:{path}"
    assert (ours.server_name, ours.server_port, ours.is_unix) == ("localhost", "80", True)
    assert path.stat().st_mode & 0o777 == 0o600
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(str(path))
    ours.close()
    assert not path.exists()


def test_abstract(stack: ExitStack) -> None:
    name = f"@prefork-sd-test-{os.getpid()}"
    ours = stack.enter_context(closing(bind(f"unix:{name}", 5)))
    assert ours.address == f"unix:{name}"
    with pytest.raises(ConfigError, match="another process listens there"):
        bind(f"unix:{name}", 5)


def test_a_stale_socket_is_replaced(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    ours = stack.enter_context(closing(bind(str(path), 5)))
    stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
    assert ours.sock.accept()


def test_a_living_socket_is_not_replaced(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "s"
    stack.enter_context(closing(bind(str(path), 5)))
    with pytest.raises(ConfigError, match=f"bind: cannot listen on unix:{path}: another process"):
        bind(str(path), 5)
    assert path.is_socket()


def test_a_living_socket_whose_backlog_is_full_is_not_replaced(
    tmp_path: Path, stack: ExitStack
) -> None:
    path = tmp_path / "s"
    stack.enter_context(closing(bind(str(path), 1)))
    answer = 0
    while answer != errno.EAGAIN:
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        answer = client.connect_ex(str(path))
    with pytest.raises(ConfigError, match="another process"):
        bind(str(path), 5)


def test_a_datagram_socket_that_lives_is_not_replaced(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "s"
    stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(str(path))
    with pytest.raises(ConfigError, match="another process"):
        bind(str(path), 5)


def test_what_is_not_a_socket_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "folder"):
        with pytest.raises(ConfigError, match="not a socket"):
            bind(str(tmp_path / name), 5)
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()


def test_close_leaves_the_file_of_a_successor(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "s"
    old = bind(str(path), 5)
    path.unlink()
    stack.enter_context(closing(bind(str(path), 5)))
    old.close()
    assert path.is_socket()


def test_close_in_a_child_leaves_the_file(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "s"
    ours = stack.enter_context(closing(bind(str(path), 5)))
    child = os.fork()
    if child == 0:
        try:
            ours.close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert path.is_socket()


def test_one_that_systemd_opened_is_left_alone(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "s"
    theirs = stack.enter_context(socket.socket(socket.AF_UNIX))
    theirs.bind(str(path))
    theirs.listen()
    ours = adopt("http", os.dup(theirs.fileno()))
    assert (ours.ours, ours.is_unix, ours.address) == (False, True, f"unix:{path}")
    ours.close()
    assert path.is_socket()


def test_a_taken_port(stack: ExitStack) -> None:
    first = stack.enter_context(closing(bind("127.0.0.1:0", 5)))
    with pytest.raises(ConfigError, match=f"127.0.0.1:{first.server_port}: another process"):
        bind(first.server_port, 5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "is not an address"),
        ("192.0.2.1:0", "does not have the address"),
        ("no-such-host.invalid:80", 'the host "no-such-host.invalid" is not known'),
        ("/no/such/folder/s", "the folder /no/such/folder does not exist"),
        ("/dev/null/s", "the folder /dev/null does not exist"),
    ],
)
def test_reasons(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind(text, 5)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("bind: ")


@pytest.mark.parametrize(
    ("number", "text", "hint"),
    [
        (errno.EACCES, "0.0.0.0:80", "needs privileges; let systemd open it"),
        (errno.EACCES, "/run/x.sock", "not permitted in /run"),
        (errno.EROFS, "/run/x.sock", "/run is read-only"),
        (errno.EMFILE, "8000", "Too many open files"),
    ],
)
def test_reasons_that_root_cannot_provoke(number: int, text: str, hint: str) -> None:
    assert hint in listeners._reason(OSError(number, os.strerror(number)), parse(text))


def test_agreement(tmp_path: Path, stack: ExitStack) -> None:
    tcp = stack.enter_context(closing(bind("127.0.0.1:0", 5)))
    unix = stack.enter_context(closing(bind(str(tmp_path / "s"), 5)))
    status = stack.enter_context(closing(bind(str(tmp_path / "status"), 5, name="status")))
    wanted = [f"unix:{tmp_path}/s", tcp.server_port]
    assert disagreements(wanted, [tcp, unix, status]) == []
    assert disagreements([], [tcp]) == []
    assert disagreements(wanted, []) == []
    assert disagreements([f"localhost:{tcp.server_port}"], [tcp]) == []


def test_disagreements_name_both(tmp_path: Path, stack: ExitStack) -> None:
    tcp = stack.enter_context(closing(bind("127.0.0.1:0", 5)))
    unix = stack.enter_context(closing(bind(str(tmp_path / "s"), 5)))
    assert disagreements(["127.0.0.1:1", tcp.address], [tcp, unix]) == [
        f'bind names "127.0.0.1:1", which systemd did not open; it opened {tcp.address}, '
        f"{unix.address}",
        f"systemd opened {unix.address}, which bind does not name; it names 127.0.0.1:1, "
        f"{tcp.address}",
    ]
    assert len(disagreements([f"[::1]:{tcp.server_port}"], [tcp])) == 2


def test_disagreements_about_tls(stack: ExitStack) -> None:
    plain = stack.enter_context(closing(bind("127.0.0.1:0", 5)))
    secret = stack.enter_context(closing(bind("127.0.0.1:0", 5, "https")))
    assert disagreements([secret.address], [plain, secret], "https") == []
    assert disagreements([plain.address], [plain, secret], "https") == [
        f'tls_bind names "{plain.address}", which systemd did not open; it opened {secret.address}',
        f"systemd opened {secret.address}, which tls_bind does not name; it names {plain.address}",
    ]
    assert disagreements([secret.address], [plain], "https") == [
        f'tls_bind names "{secret.address}", which systemd did not open; '
        "it opened none of that name"
    ]


def test_the_port_of_a_unix_socket(tmp_path: Path, stack: ExitStack) -> None:
    for name, port in (("http", "80"), ("https", "443")):
        listener = stack.enter_context(closing(bind(str(tmp_path / name), 5, name)))
        assert (listener.server_name, listener.server_port) == ("localhost", port)


@pytest.mark.parametrize(("only", "count"), [(0, 0), (1, 2)])
def test_a_dual_stack_listener_serves_ipv4(stack: ExitStack, only: int, count: int) -> None:
    sock = stack.enter_context(socket.socket(socket.AF_INET6))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    sock.bind(("::", 0))
    port = sock.getsockname()[1]
    assert len(disagreements([f"0.0.0.0:{port}"], [Listener("http", sock)])) == count


# ---- kept over a restart


def test_a_listener_is_found_again_by_its_entry_of_bind(tmp_path: Path) -> None:
    entry = f"unix:{tmp_path}/own.sock"
    first = listeners.bind(entry, 16)
    stored = {first.label: first.sock.fileno(), "own-http-other": -1}
    first.sock.detach()
    again = listeners.kept(entry, listeners.HTTP, stored)
    assert again is not None
    assert (again.ours, again.label, again.address) == (True, first.label, entry)
    assert stored == {"own-http-other": -1}
    again.close()
    assert not (tmp_path / "own.sock").exists()


def test_a_listener_whose_file_is_gone_is_of_no_use(tmp_path: Path) -> None:
    entry = f"unix:{tmp_path}/own.sock"
    with closing(listeners.bind(entry, 16)) as first:
        stored = {first.label: first.sock.fileno()}
        (tmp_path / "own.sock").unlink()
        assert listeners.kept(entry, listeners.HTTP, stored) is None
        assert list(stored) == [first.label]  # for who lets go of it


def test_one_that_systemd_keeps_keeps_its_file(tmp_path: Path) -> None:
    listener = listeners.bind(f"unix:{tmp_path}/own.sock", 16)
    listener.kept = True
    listener.close()
    assert (tmp_path / "own.sock").is_socket()


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        ("127.0.0.1:8000", "own-http-127.0.0.1_8000"),
        ("[::1]:80", "own-http-___1__80"),
        ("unix:/run/a b.sock", "own-http-unix__run_a_b.sock"),
        ("unix:/" + "x" * 300, "own-http-unix__" + "x" * 185),
    ],
)
def test_labels_are_names_for_systemd(entry: str, label: str) -> None:
    assert listeners.label_of(listeners.HTTP, entry) == label
    assert len(label) <= 255
    assert ":" not in label
