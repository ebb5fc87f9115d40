"""What an ASGI scope says of a request, by our configuration and by what a trusted proxy told."""

from typing import Any

from prefork_sd.config import Config
from prefork_sd.forwarded import HEADERS, Forwarded, Trust

Scope = dict[str, Any]

FROM_PROXIES = {name.encode(): place for name, place in HEADERS.items()}
AROUND_TARGET = len("OPTIONS  HTTP/1.1")  # of a request line


class Scopes:
    """Completes the scopes of a worker's requests, and finds those that break a limit.

    `prefixed`: the app expects a path to begin with the root path, as the specification has it
    since 2023. Source: the ASGI specification, "HTTP & WebSocket ASGI Message Format".
    """

    def __init__(self, cfg: Config, *, prefixed: bool) -> None:
        self._mount = cfg.script_name
        self._prefixed = prefixed
        self._body = cfg.limit_request_body
        self._line = cfg.limit_request_line
        self._fields = cfg.limit_request_fields
        self._field_size = cfg.limit_request_field_size
        told = bool(cfg.forwarded_allow_ips and cfg.forwarded_headers)
        trust = Trust(cfg.forwarded_allow_ips)
        self._forwarded = Forwarded(trust, cfg.forwarded_headers) if told else None

    def settle(self, scope: Scope) -> int:
        """Complete the scope in place. Return the status to refuse the request with, or 0."""
        headers = scope["headers"]
        told: dict[str, str] = {}
        length = 0
        for name, value in headers:
            if len(name) + len(value) + 2 > self._field_size:
                return 431
            if name == b"content-length":
                length = int(value)
            elif place := FROM_PROXIES.get(name):
                text = value.decode("latin-1")
                told[place] = f"{told[place]},{text}" if place in told else text
        raw = raw_path(scope)
        if len(headers) > self._fields:
            return 431
        if len(raw) + len(scope["query_string"]) + AROUND_TARGET > self._line:
            return 414
        root = self._mount
        if told and self._forwarded is not None:
            root = _apply(self._forwarded, scope, told, root)
        scope["root_path"], scope["raw_path"] = root, raw
        if root:
            self._mount_at(scope, root, raw)
        return 413 if 0 < self._body < length else 0

    def _mount_at(self, scope: Scope, root: str, raw: bytes) -> None:
        path, mount = scope["path"], self._mount
        if mount and f"{path}/".startswith(f"{mount}/"):
            path, raw = path[len(mount) :], raw.removeprefix(mount.encode())
        prefix = root if self._prefixed else ""
        scope["path"], scope["raw_path"] = prefix + path, prefix.encode() + raw


def raw_path(scope: Scope) -> bytes:
    """The path as it came, still quoted. uvicorn before 0.18 has that of a WebSocket as text."""
    raw: bytes | str = scope.get("raw_path") or b""
    return raw.encode("latin-1") if isinstance(raw, str) else raw


def _apply(forwarded: Forwarded, scope: Scope, told: dict[str, str], mount: str) -> str:
    """Change client, scheme and host as a trusted proxy told; return where the app is mounted."""
    address, port = scope["client"] or ("", 0)
    encrypted = scope["scheme"] in ("https", "wss")
    environ: dict[str, Any] = {
        **told,
        "REMOTE_ADDR": address,
        "REMOTE_PORT": str(port),
        "wsgi.url_scheme": "https" if encrypted else "http",
        "SCRIPT_NAME": mount,
    }
    forwarded.apply(environ)
    if environ["REMOTE_ADDR"] != address:
        scope["client"] = (environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"] or 0))
    plain = "ws" if scope["type"] == "websocket" else "http"
    scope["scheme"] = f"{plain}s" if environ["wsgi.url_scheme"] == "https" else plain
    if host := environ.get("HTTP_HOST"):
        others = [header for header in scope["headers"] if header[0] != b"host"]
        scope["headers"] = [(b"host", host.encode("latin-1")), *others]
    root: str = environ["SCRIPT_NAME"]
    return root
