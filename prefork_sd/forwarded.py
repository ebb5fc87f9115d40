"""What a trusted proxy says of the client: X-Forwarded-*, Forwarded (RFC 7239). Knows no socket."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# header (as the setting names it): where it stands in environ
HEADERS = {
    "x-forwarded-for": "HTTP_X_FORWARDED_FOR",
    "x-forwarded-proto": "HTTP_X_FORWARDED_PROTO",
    "x-forwarded-host": "HTTP_X_FORWARDED_HOST",
    "x-forwarded-prefix": "HTTP_X_FORWARDED_PREFIX",
    "forwarded": "HTTP_FORWARDED",
}
UNIX = "unix"  # a peer on a unix socket; who may connect is a matter of the socket's mode
REMEMBERED = 1024  # peers whose verdict is kept

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+")
_PAIR = re.compile(r'([A-Za-z]++)=("(?:[^"\\]|\\.)*"|[^\s"]*+)')


class Trust:
    """Which peers are believed: addresses, networks, "unix", or "*" for everybody."""

    def __init__(self, allowed: Iterable[str]) -> None:
        names = set(allowed)
        self._all = "*" in names
        self._unix = self._all or UNIX in names
        self._networks: list[Network] = [
            ipaddress.ip_network(name, strict=False) for name in sorted(names - {"*", UNIX})
        ]
        self._known: dict[str, bool] = {}

    def __call__(self, address: str) -> bool:
        """Whether to believe the peer with that address; "" is one on a unix socket."""
        if not address:
            return self._unix
        verdict = self._known.get(address)
        if verdict is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            verdict = self._known[address] = self._all or self._listed(address)
        return verdict

    def _listed(self, address: str) -> bool:
        try:
            peer = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
            peer = peer.ipv4_mapped
        return any(peer in network for network in self._networks)


class Forwarded:
    """Puts into an environ what a trusted proxy said. What makes no sense is left alone."""

    def __init__(self, trust: Trust, headers: Iterable[str]) -> None:
        self._trust = trust
        wanted = set(headers)
        self._for = "x-forwarded-for" in wanted
        self._proto = "x-forwarded-proto" in wanted
        self._host = "x-forwarded-host" in wanted
        self._prefix = "x-forwarded-prefix" in wanted
        self._standard = "forwarded" in wanted
        self._keys = [f"HTTP_{name.upper().replace('-', '_')}" for name in wanted]

    def apply(self, environ: MutableMapping[str, Any]) -> None:
        """Change REMOTE_ADDR, wsgi.url_scheme, HTTP_HOST and SCRIPT_NAME as told."""
        if environ.keys().isdisjoint(self._keys) or not self._trust(environ["REMOTE_ADDR"]):
            return
        if self._for and (value := environ.get("HTTP_X_FORWARDED_FOR")):
            self._client(environ, [item.strip() for item in value.split(",")])
        if self._proto and (value := environ.get("HTTP_X_FORWARDED_PROTO")):
            _scheme(environ, _last(value))
        if self._host and (value := environ.get("HTTP_X_FORWARDED_HOST")):
            _hostname(environ, _last(value))
        if self._prefix and (value := environ.get("HTTP_X_FORWARDED_PREFIX")):
            prefix = _last(value).rstrip("/")
            if _PREFIX.fullmatch(prefix):
                environ["SCRIPT_NAME"] = prefix
        if self._standard and (value := environ.get("HTTP_FORWARDED")):
            self._rfc7239(environ, value)

    def _client(self, environ: MutableMapping[str, Any], nodes: list[str]) -> int:
        """Walk from the nearest proxy outwards to the first that is not one of ours.

        Return its place in the list. What stands farther out was written by a stranger.
        """
        place = len(nodes)
        for place in range(len(nodes) - 1, -1, -1):
            found = address_of(nodes[place])
            if found is None:
                return place
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = found
            if not self._trust(found[0]):
                return place
        return place

    def _rfc7239(self, environ: MutableMapping[str, Any], value: str) -> None:
        # "," and ";" in quotes mean nothing here: a quote that a stranger left open, and his proxy
        # handed on, must not hide what the proxy says
        elements = [dict(_pairs(element)) for element in value.split(",")]
        place = self._client(environ, [element.get("for", "") for element in elements])
        if place < len(elements):
            _scheme(environ, elements[place].get("proto", ""))
            _hostname(environ, elements[place].get("host", ""))


def address_of(node: str) -> tuple[str, str] | None:
    """(address, port or "") of "192.0.2.1", "192.0.2.1:80", "[2001:db8::1]:80", "2001:db8::1"."""
    port = ""
    if node.startswith("["):
        node, _, rest = node[1:].partition("]")
        port = rest.removeprefix(":")
    elif node.count(":") == 1:
        node, _, port = node.partition(":")
    try:
        address = str(ipaddress.ip_address(node))
    except ValueError:
        return None
    return address, port if port.isascii() and port.isdigit() else ""


def _pairs(element: str) -> Iterator[tuple[str, str]]:
    for part in element.split(";"):
        if not (pair := _PAIR.fullmatch(part.strip())):
            continue
        name, value = pair.groups()
        text = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        yield name.lower(), text


def _last(value: str) -> str:
    """What the nearest proxy said."""
    return value.rpartition(",")[2].strip()


def _scheme(environ: MutableMapping[str, Any], scheme: str) -> None:
    if scheme.lower() in ("http", "https"):
        environ["wsgi.url_scheme"] = scheme.lower()
        if scheme.lower() == "http":
            environ.pop("HTTPS", None)


def _hostname(environ: MutableMapping[str, Any], host: str) -> None:
    if _HOST.fullmatch(host):
        environ["HTTP_HOST"] = host
