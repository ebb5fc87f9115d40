"""Addresses: who else listens there, and who may connect."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefork_sd.checks.access import WRITE, Identity, Node, denied
from prefork_sd.checks.finding import Finding

LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp has it
ANYWHERE = ("0.0.0.0", "::")
Own = tuple[str, str]  # an address of ours, after the setting that has it


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket that listens, by its line in /proc/net/tcp or tcp6 (proc(5))."""

    host: str
    port: int
    inode: str


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is installed, and who it runs as."""

    name: str
    identity: Identity
    root: str = ""  # the folder that it locks itself into


def listeners(table: str) -> Iterator[Listener]:
    """Yield the sockets of a /proc/net/tcp or tcp6 that listen."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == LISTEN:
            host, _, port = words[1].partition(":")
            yield Listener(_host(host), int(port, 16), words[9])


def _host(text: str) -> str:
    """The address of 32-bit words in the byte order of the machine, which is little-endian."""
    raw = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    return str(ipaddress.ip_address(raw))


def tcp(address: str) -> tuple[str, int] | None:
    """(host, port) of an address of `bind`, or None for a unix socket."""
    if address.startswith("unix:"):
        return None
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def overlap(one: str, other: str) -> bool:
    """Whether two addresses of `bind` cannot both be listened on."""
    first, second = tcp(one), tcp(other)
    if first is None or second is None:
        return one == other
    return _meet(first, second)


def _meet(one: tuple[str, int], other: tuple[str, int]) -> bool:
    if one[1] != other[1] or not one[1]:
        return False
    if one[0] == other[0] or "::" in (one[0], other[0]):
        return True
    same_kind = (":" in one[0]) == (":" in other[0])
    return same_kind and (one[0] in ANYWHERE or other[0] in ANYWHERE)


def declared_twice(
    own: Iterable[Own], others: Mapping[str, Sequence[str]], files: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield the addresses that another service's file has, too; `others` by service."""
    for key, address in own:
        for name, addresses in others.items():
            for other in addresses:
                if overlap(address, other):
                    text = f"{key}: {address} is also an address of {name} ({files[name]}): {other}"
                    why = "only one of them can listen there"
                    yield Finding(text, why, "give one of them another address")


def taken(own: Own, found: Iterable[Listener], owners: Mapping[str, str]) -> Finding | None:
    """Who holds a TCP address that is not ours yet; `owners` by inode."""
    key, address = own
    wanted = tcp(address)
    for one in found:
        if wanted and _meet(wanted, (one.host, one.port)):
            who = owners.get(one.inode, "another process")
            return Finding(
                f"{key}: {who} listens on {one.host}, port {one.port}",
                "the service's socket cannot start",
                f"stop it, or change {key}; ss -ltnp 'sport = :{one.port}' shows it",
                stops=(":" in one.host) == (":" in wanted[0]),  # else it may have IPv6 alone
            )
    return None


def unheard(unit: str, address: str, found: Iterable[Listener]) -> Finding | None:
    """A TCP address of a socket unit that is active, at which nobody listens."""
    wanted = tcp(address)
    if wanted is None or not wanted[1] or wanted in ((one.host, one.port) for one in found):
        return None
    text = f"{unit} is active, but does not listen on {address} yet"
    why = "a socket takes new addresses when it is restarted"
    return Finding(text, why, f"systemctl restart {unit}")


def elsewhere(own: Own, has: Callable[[str], bool]) -> Finding | None:
    """An IP address that the machine, as `has` tells, does not have."""
    key, address = own
    wanted = tcp(address)
    if wanted is None or has(wanted[0]):
        return None
    return Finding(
        f"{key}: this machine does not have {wanted[0]} now",
        "the socket starts all the same, and nobody can connect to it until then",
        f"correct {key}, or add the address; ip address shows those that there are",
    )


def below(own: Own, first: int) -> Finding | None:
    """A port that only root may take, where no unit takes it for us; from `first` all may."""
    key, address = own
    wanted = tcp(address)
    if wanted is None or not 0 < wanted[1] < first:
        return None
    return Finding(
        f"{key}: port {wanted[1]} is below {first}, and no unit of systemd opens it",
        "only root may listen there",
        f"run it as root, take a port from {first} on, or let systemd start it",
    )


def unreachable(
    way: Sequence[Node], socket: Node, proxies: Sequence[Proxy], *, group: str
) -> Finding | None:
    """A unix socket that no proxy of this machine may connect to; `way` are its folders.

    Without a proxy there is nothing to say.
    """
    if not proxies:
        return None
    for proxy in proxies:
        locked_out = proxy.root and not socket.path.startswith(f"{proxy.root}/")
        if not locked_out and denied([*way, socket], proxy.identity, WRITE) is None:
            return None
    proxy = proxies[0]
    if proxy.root and not socket.path.startswith(f"{proxy.root}/"):
        mend = f"bind: {proxy.root}/NAME.sock and socket_group: {proxy.identity.name}"
    elif (closed := denied([*way, socket], proxy.identity, WRITE)) and closed is not socket:
        mend = f"chmod o+x {closed.path}, or leave bind out"
    else:
        mend = f"socket_group: {proxy.identity.name} (and socket_mode: 0660)"
    text = f"bind: {proxy.name} ({proxy.identity.name}) may not connect to {socket.path}"
    why = f"the socket is for the group {group or 'root'}, mode {socket.mode & 0o777:04o}"
    return Finding(text, f"{why}: the proxy would answer 502", mend)


def nginx_user(configuration: str) -> str:
    """The user that an nginx.conf names; Debian's otherwise."""
    found = re.search(r"^\s*user\s+([\w.-]+)", configuration, re.MULTILINE)
    return found[1] if found else "www-data"
