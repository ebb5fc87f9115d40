"""The facts of this machine: what systemctl shows, who is who, what lies where, who listens."""

import errno
import grp
import os
import pwd
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prefork_sd import systemctl
from prefork_sd.checks.access import Identity, Node
from prefork_sd.checks.addresses import Listener, Proxy, listeners, nginx_user
from prefork_sd.checks.unitfile import Loaded, Properties

TIMEOUT = 10.0  # seconds
SHOWN = (
    "LoadState,FragmentPath,DropInPaths,ExecStart,ActiveState,Result,Listen,"
    "TimeoutStartUSec,TimeoutStopUSec,ProtectHome,PrivateTmp,User,Group,DynamicUser,"
    "SupplementaryGroups,BindPaths,BindReadOnlyPaths,RootDirectory,RootImage"
)
VERIFY = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=no")
FILES_MAX = 5000  # that are looked at below an app's folder
ACL = "system.posix_acl_access"
PROXIES = {  # program, user, the folder that it locks itself into
    "nginx": ("/usr/sbin/nginx", "www-data", ""),
    "Apache": ("/usr/sbin/apache2", "www-data", ""),
    "Caddy": ("/usr/bin/caddy", "caddy", ""),
    "HAProxy": ("/usr/sbin/haproxy", "haproxy", "/var/lib/haproxy"),
}


def shown(unit: str) -> Properties:
    """What systemd has loaded of a unit; empty where it cannot be asked."""
    try:
        done = systemctl.run(["systemctl", "show", "-p", SHOWN, unit], TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return systemctl.properties(done.stdout)


def loaded(name: str, expected: Mapping[str, str]) -> Loaded:
    """A service's units as systemd has them, beside the texts that they should have."""
    unit = f"{name}.service"
    service = shown(unit) if systemctl.booted() else {}
    known = {one: shown(one) for one in expected if one != unit and service}
    texts = {one: _text(found.get("FragmentPath", "")) for one, found in known.items()}
    texts[unit] = _text(service.get("FragmentPath", ""))
    return Loaded(name, service, known, expected, texts)


def verified(files: Mapping[str, str]) -> str:
    """What systemd-analyze(1) says of unit files; nothing where it is not there."""
    with tempfile.TemporaryDirectory(prefix="prefork-sd-") as folder:
        paths = [Path(folder, name) for name in files]
        for path, text in zip(paths, files.values(), strict=True):
            path.write_text(text, encoding="utf-8")
        try:
            return systemctl.run([*VERIFY, *map(str, paths)], TIMEOUT).stderr
        except (OSError, subprocess.TimeoutExpired):
            return ""


def _text(path: str) -> str:
    """A unit file's text; empty where there is none that we would have written."""
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError):
        return ""


def account(name: str, groups: tuple[str, ...] = ()) -> Identity | None:
    """A user by name or number, with all groups; None where there is no such user."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        return None
    gids = {*os.getgrouplist(entry.pw_name, entry.pw_gid), *gids_of(groups)}
    return Identity(entry.pw_name, entry.pw_uid, frozenset(gids))


def gids_of(groups: tuple[str, ...]) -> Iterator[int]:
    """Yield the numbers of the groups that exist."""
    for name in groups:
        try:
            yield int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
        except KeyError:
            continue


def way(path: str) -> list[Node]:
    """The folders that lead to a path and itself, symbolic links followed, as far as they exist.

    What is behind a folder that is closed to ourselves is taken to be open.
    """
    real = Path(os.path.realpath(path))
    nodes = []
    for place in (*reversed(real.parents), real):
        try:
            nodes.append(_node(place))
        except PermissionError:
            return [*nodes, Node(str(real), 0, 0, 0, listed=True)]
        except OSError:
            break
    return nodes


def exists(path: str) -> bool:
    """Whether there is something, as far as we can see."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _node(path: Path) -> Node:
    info = path.stat()
    try:
        listed = ACL in os.listxattr(path)
    except OSError:
        listed = False  # a file system without them
    return Node(str(path), info.st_mode, info.st_uid, info.st_gid, listed)


def node(path: Path) -> Node | None:
    """One file or folder; None where it is not there or cannot be seen."""
    try:
        return _node(path)
    except OSError:
        return None


def sources(folder: Path) -> Iterator[Node]:
    """Yield the Python files and folders of an app, hidden ones and virtual environments aside."""
    seen = 0
    for place, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not Path(place, name, "pyvenv.cfg").exists()
        ]
        for name in (*folders, *(name for name in files if name.endswith(".py"))):
            seen += 1
            if seen > FILES_MAX:
                return
            if found := node(Path(place, name)):
                yield found


def app_files(app: str, roots: Iterable[str]) -> list[str]:
    """The module that an `app` names and its packages, in the first folder that has any of it."""
    module = app.partition(":")[0] if ":" in app else app.rpartition(".")[0]
    parts = module.removesuffix("()").split(".")
    for root in roots:
        place, places = Path(root), list[Path]()
        for part in parts:
            places.append(place / f"{part}.py")
            place /= part
            places += [place, place / "__init__.py"]
        if found := [str(one) for one in places if exists(str(one))]:
            return found
    return []


def listening() -> list[Listener]:
    """The TCP sockets of this machine that listen."""
    found: list[Listener] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            found += listeners(Path(table).read_text(encoding="ascii"))
        except OSError:
            continue  # a kernel without IPv6
    return found


def has_address(host: str) -> bool:
    """Whether one may listen at an IP address; True if that cannot be told."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def owners(inodes: set[str]) -> dict[str, str]:
    """The processes that hold sockets, as "name (pid)", as far as they can be seen."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, str] = {}
    for process in Path("/proc").glob("[0-9]*") if wanted else ():
        try:
            for entry in os.scandir(process / "fd"):
                if inode := wanted.get(str(Path(entry.path).readlink())):
                    name = (process / "comm").read_text().strip()
                    found.setdefault(inode, f"{name} ({process.name})")
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def proxies() -> list[Proxy]:
    """The proxies that run here, or if none does those that are installed, and as whom."""
    found = _installed()
    units = {proxy.name: f"{Path(PROXIES[proxy.name][0]).name}.service" for proxy in found}
    running = [one for one in found if shown(units[one.name]).get("ActiveState") == "active"]
    return running or found


def _installed() -> list[Proxy]:
    found = []
    for name, (program, user, root) in PROXIES.items():
        if not Path(program).exists():
            continue
        if name == "nginx":
            user = _nginx_user()
        if identity := account(user):
            found.append(Proxy(name, identity, root))
    return found


def _nginx_user() -> str:
    try:
        return nginx_user(Path("/etc/nginx/nginx.conf").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return "www-data"


def unprivileged_port() -> int:
    """The first TCP port that everybody may listen on; 0 for root."""
    if os.geteuid() == 0:
        return 0
    return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


def socket_node(path: str, mode: str, owner: str, group: str) -> tuple[list[Node], Node]:
    """(its folders, itself) of a unix socket, as the socket unit makes it."""
    who = account(owner) if owner else None
    gids = [*gids_of((group,))] if group else []
    bits = stat.S_IFSOCK | int(mode, 8)
    itself = Node(path, bits, (who.uid if who else None) or 0, gids[0] if gids else 0)
    return way(str(Path(path).parent)), itself
