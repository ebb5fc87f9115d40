"""The sockets that clients connect to: named, described, bound where systemd did not do it."""

import errno
import os
import re
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefork_sd.errors import ConfigError, Problem

HTTP, HTTPS, STATUS = "http", "https", "status"  # names: FileDescriptorName= of a .socket unit
SETTING = {HTTP: "bind", HTTPS: "tls_bind", STATUS: "status_bind"}  # says where they should be
MOST_PATH_BYTES = 107
OWN, MOST_LABEL = "own-", 200  # FDNAME= of sd_notify(3)
_NO_LABEL = re.compile(r"[^A-Za-z0-9.-]")
_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.]+)\]:([0-9]+)", re.ASCII)
_HOST = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?):([0-9]+)", re.ASCII)
_NO_HOST = re.compile(r"\*?:([0-9]+)", re.ASCII)
_BARE_IPV6 = re.compile(r"[][0-9A-Fa-f.]*:[][0-9A-Fa-f.]*:[][0-9A-Fa-f:.]*")
_RIGHT = '"127.0.0.1:8000", "[::1]:8000", "8000" or "unix:/path"'


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. `path` (with "@" in front when abstract) is empty for TCP."""

    family: socket.AddressFamily
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if self.family == socket.AF_INET6 else self.host
        return f"{host}:{self.port}"


def parse(bind: str) -> Address:
    """Read one entry of the setting `bind`: HOST:PORT, [v6]:PORT, PORT, unix:/path or /path.

    PORT alone is that port of 127.0.0.1. "unix:@name" is an abstract socket (unix(7)).
    Raises ValueError, whose text says what would be right.
    """
    if bind.startswith(("/", "unix:")):
        return _parse_unix(bind)
    if bind.isascii() and bind.isdigit():
        bind = f"127.0.0.1:{bind}"
    if match := _BRACKETS.fullmatch(bind):
        family = socket.AF_INET6
        try:
            socket.inet_pton(family, match[1])
        except OSError:
            raise ValueError(f'"{bind}": "{match[1]}" is not an IPv6 address') from None
    elif match := _HOST.fullmatch(bind):
        family = socket.AF_INET
    elif match := _NO_HOST.fullmatch(bind):
        port = match[1]
        raise ValueError(
            f'"{bind}" names no address; for all of them write "0.0.0.0:{port}" and "[::]:{port}"'
        )
    elif _BARE_IPV6.fullmatch(bind):
        raise ValueError(f'"{bind}": an IPv6 address needs brackets, like "[::1]:8000"')
    else:
        raise ValueError(f'"{bind}" is not an address; write {_RIGHT}')
    host, port = match[1], match[2]
    if len(port) > 5 or int(port) > 65535:
        raise ValueError(f'"{bind}": the port must be between 0 and 65535')
    return Address(family, host=host, port=int(port))


def _parse_unix(bind: str) -> Address:
    path = bind.removeprefix("unix:")
    if path[:1] not in ("/", "@") or len(path) < 2 or "\0" in path:
        raise ValueError(f'"{bind}": write an absolute path, like "unix:/run/app.sock"')
    if len(os.fsencode(path)) > MOST_PATH_BYTES:
        raise ValueError(f'"{bind}": the path of a socket has at most {MOST_PATH_BYTES} bytes')
    return Address(socket.AF_UNIX, path=path)


@dataclass(slots=True)
class Listener:
    """A listening stream socket. `name` is HTTP, HTTPS or STATUS; `ours`: bound by us."""

    name: str
    sock: socket.socket
    ours: bool = False
    label: str = ""  # what it is called in the file descriptor store
    kept: bool = False  # systemd keeps it there for our next life
    # device and inode of the socket file, and the process that bound it
    file: tuple[int, int, int] | None = None
    where: Address = field(init=False)

    def __post_init__(self) -> None:
        self.where = _address(self.sock)

    @property
    def is_unix(self) -> bool:
        return self.sock.family == socket.AF_UNIX

    @property
    def address(self) -> str:
        """As a person writes it: "127.0.0.1:8000", "[::1]:80", "unix:/path", "unix:@name"."""
        return str(self.where)

    @property
    def server_name(self) -> str:
        """SERVER_NAME of PEP 3333, which is never empty: a unix socket says "localhost"."""
        return "localhost" if self.is_unix else self.address.rpartition(":")[0]

    @property
    def server_port(self) -> str:
        """SERVER_PORT of PEP 3333, which is never empty: a unix socket says "80" or "443"."""
        if self.is_unix:
            return "443" if self.name == HTTPS else "80"
        return str(self.where.port)

    def claim(self, ours: bool) -> None:
        """After a re-exec: it is ours if it was."""
        self.ours = ours
        if ours and self.is_unix:
            self.file = _identity(self.where.path)

    def close(self) -> None:
        """Close it; the socket file goes too if this process made it and it is still that one.

        Not if the socket is kept: clients may wait there for our next life.
        """
        made_here = self.file is not None and not self.kept
        if made_here and self.file == _identity(path := self.where.path):
            Path(path).unlink(missing_ok=True)
        self.sock.close()


def _address(sock: socket.socket) -> Address:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = os.fsdecode(name)
        return Address(socket.AF_UNIX, path="@" + path[1:] if path[:1] == "\0" else path)
    return Address(sock.family, host=name[0], port=name[1])


def adopt(name: str, fd: int) -> Listener:
    """Take a listener that systemd opened; we never bind, chmod or unlink it."""
    return Listener(name, socket.socket(fileno=fd))


def bind(text: str, backlog: int, name: str = HTTP, *, mode: int | None = None) -> Listener:
    """Open a listener for one entry of the setting `bind` or its like.

    An IPv6 listener is for IPv6 alone: "0.0.0.0:80" and "[::]:80" can stand side by side.
    `mode`: the permissions of a socket file. A socket file on which nobody answers is replaced.
    Raises ConfigError with the reason.
    """
    key = SETTING[name]
    try:
        address = parse(text)
    except ValueError as error:
        raise ConfigError(Problem(str(error), key)) from None
    try:
        if address.path:
            listener = _bind_unix(address, backlog, name, mode)
        else:
            listener = _bind_tcp(address, backlog, name)
    except OSError as error:
        reason = f"cannot listen on {address}: {_reason(error, address)}"
        raise ConfigError(Problem(reason, key)) from error
    listener.label = label_of(name, text)
    return listener


def label_of(name: str, text: str) -> str:
    """What an own listener for an entry of `bind` is called in the file descriptor store."""
    return f"{OWN}{name}-{_NO_LABEL.sub('_', text)}"[:MOST_LABEL]


def kept(text: str, name: str, stored: dict[str, int]) -> Listener | None:
    """The listener for an entry of `bind` that outlived us, if there is one; out of `stored`.

    One whose socket file is gone is of no use.
    """
    label = label_of(name, text)
    if label not in stored:
        return None
    listener = adopt(name, stored[label])
    path = listener.where.path
    if path and not path.startswith("@") and not Path(path).is_socket():
        listener.sock.detach()
        return None
    del stored[label]
    listener.claim(ours=True)
    listener.label = label
    return listener


def _bind_tcp(address: Address, backlog: int, name: str) -> Listener:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    # "localhost" is both families in /etc/hosts: clients that are told nothing else try IPv4.
    family, _, _, _, where = min(found, key=lambda info: info[0] != socket.AF_INET)
    sock = _stream_socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets take it over, so that no answer waits for an ACK (tcp(7)).
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(where)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return Listener(name, sock, ours=True)


def _bind_unix(address: Address, backlog: int, name: str, mode: int | None) -> Listener:
    path = address.path
    identity = None
    sock = _stream_socket(socket.AF_UNIX)
    try:
        if path.startswith("@"):
            sock.bind("\0" + path[1:])
        else:
            _remove_stale(path)
            sock.bind(path)
            identity = _identity(path)
            if mode is not None:
                Path(path).chmod(mode)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return Listener(name, sock, ours=True, file=identity)


def _stream_socket(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _identity(path: str) -> tuple[int, int, int] | None:
    """Device and inode of the socket file with this process's pid; None if there is no file."""
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, os.getpid())


def _remove_stale(path: str) -> None:
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is not a socket")
    with _stream_socket(socket.AF_UNIX) as probe:
        answer = probe.connect_ex(path)
    if answer == errno.ECONNREFUSED:
        Path(path).unlink(missing_ok=True)
    elif answer in (0, errno.EAGAIN, errno.EPROTOTYPE):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    elif answer != errno.ENOENT:
        raise OSError(answer, os.strerror(answer))


def _reason(error: OSError, address: Address) -> str:
    folder = Path(address.path).parent
    if isinstance(error, socket.gaierror):
        return f'the host "{address.host}" is not known ({error.strerror})'
    match error.errno:
        case errno.EADDRINUSE:
            return "another process listens there"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have the address"
        case errno.EACCES if not address.path and address.port < 1024:
            return (
                "a port below 1024 needs privileges; let systemd open it (a .socket unit), "
                "or take a port from 1024 on"
            )
        case errno.EACCES | errno.EPERM:
            return f"not permitted in {folder}"
        case errno.EROFS:
            return f"{folder} is read-only"
        case errno.ENOENT | errno.ENOTDIR:
            return f"the folder {folder} does not exist"
        case _:
            return str(error.strerror)


def disagreements(wanted: Sequence[str], got: Sequence[Listener], name: str = HTTP) -> list[str]:
    """Say where `bind` and what systemd opened for the app differ; systemd's are served.

    `name` is that of the listeners which `wanted` means. Empty, it wants nothing in particular.
    """
    given = [listener for listener in got if listener.name == name]
    if not wanted or not got:
        return []
    key = SETTING[name]
    addresses = [parse(text) for text in wanted]
    all_given = ", ".join(listener.address for listener in given) or "none of that name"
    all_wanted = ", ".join(wanted)
    missing = [
        f'{key} names "{text}", which systemd did not open; it opened {all_given}'
        for text, address in zip(wanted, addresses, strict=True)
        if not any(_serves(listener, address) for listener in given)
    ]
    extra = [
        f"systemd opened {listener.address}, which {key} does not name; it names {all_wanted}"
        for listener in given
        if not any(_serves(listener, address) for address in addresses)
    ]
    return missing + extra


def _serves(listener: Listener, address: Address) -> bool:
    where = listener.where
    if where.path or address.path:
        return where.path == address.path
    if where.port != address.port:
        return False
    try:
        wanted = socket.inet_pton(address.family, address.host)
    except OSError:  # A name: what it means is for the resolver, which we do not ask here.
        return True
    if where.host == "::" and address.host == "0.0.0.0":
        return not listener.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return where.family == address.family and wanted == socket.inet_pton(where.family, where.host)
