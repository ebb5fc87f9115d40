"""The only door to uvicorn: its protocols, made ours where a connection begins and ends."""

import asyncio
import copy
import inspect
import logging
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from time import time
from types import ModuleType
from typing import Any

from prefork_sd.config import Config
from prefork_sd.errors import ConfigError, Problem
from prefork_sd.imports import said

LINGER = 1.0  # seconds that an idle client may still send something after a drain has begun
FOREVER = 1e8  # seconds, for a limit that is off
PREFIXED = (0, 26)  # the version since which a path begins with the root path
Asgi = Callable[..., Any]


def uvicorn(cfg: Config) -> ModuleType:
    """The package, with what we need of it imported. Raises ConfigError with the way to get it."""
    try:
        import uvicorn
        import uvicorn.config
        import uvicorn.protocols.http.auto
        import uvicorn.protocols.websockets.auto
        import uvicorn.server
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "uvicorn":
            text = f"an ASGI app needs uvicorn; {_way(cfg)}"
        else:
            text = f"an ASGI app needs uvicorn, and that cannot be imported: {said(error)}"
        raise ConfigError(Problem(text, "worker_class")) from None
    package: ModuleType = uvicorn
    return package


def paths_have_prefix(cfg: Config) -> bool:
    """Whether that uvicorn, and so what goes with it, has `path` begin with `root_path`."""
    major, minor = uvicorn(cfg).__version__.split(".")[:2]
    return (int(major), int(minor)) >= PREFIXED


def _way(cfg: Config) -> str:
    if cfg.venv:
        return f"install it where the app lives: {Path(cfg.venv) / 'bin' / 'pip'} install uvicorn"
    return "install python3-uvicorn (apt), or prefork-sd[asgi] (pip)"


class Members(set[Any]):
    """A set that tells when somebody has left it: uvicorn keeps its connections and tasks in it."""

    def __init__(self, on_leave: Callable[[], None]) -> None:
        super().__init__()
        self._on_leave = on_leave

    def discard(self, member: object) -> None:
        super().discard(member)
        self._on_leave()

    def remove(self, member: object) -> None:
        super().remove(member)
        self._on_leave()


class Protocols:
    """What becomes of an accepted connection: uvicorn's HTTP, and WebSockets after an upgrade.

    `app` is called for each request. `on_leave`: some connection or request is over.
    """

    def __init__(
        self, cfg: Config, app: Asgi, on_leave: Callable[[], None], silence: logging.Filter
    ) -> None:
        package = uvicorn(cfg)
        options: dict[str, Any] = {
            "interface": "asgi3",
            "lifespan": "off",
            "log_config": None,
            "access_log": False,
            "proxy_headers": False,
            "server_header": False,
            "workers": 1,
            "timeout_keep_alive": cfg.keepalive,
        }
        known = inspect.signature(package.config.Config).parameters
        if "h11_max_incomplete_event_size" in known:
            options["h11_max_incomplete_event_size"] = cfg.limit_request_head
        self._config: Any = package.config.Config(app, **options)
        self._config.load()
        self.state: Any = package.server.ServerState()
        self.state.connections = Members(on_leave)
        self.state.tasks = Members(on_leave)
        self._class = _guarded(self._config.http_protocol_class, cfg)
        self._more: dict[str, Any] = {}
        if "app_state" in inspect.signature(self._config.http_protocol_class).parameters:
            self._more["app_state"] = {}
        self._dated = 0
        _take_over_log(silence, cfg.log_level)

    def make(self, client: tuple[str, int] | None) -> asyncio.Protocol:
        """One for a new connection. `client`: who it is, if a proxy has told."""
        config = self._config
        if client is not None:
            config = copy.copy(config)
            config.loaded_app = _introducing(client, config.loaded_app)
        self.tell_time()
        protocol: asyncio.Protocol = self._class(
            config=config, server_state=self.state, **self._more
        )
        return protocol

    def tell_time(self) -> None:
        """Have the next response be dated right (RFC 9110, 6.6.1)."""
        now = int(time())
        if now != self._dated:
            self._dated = now
            self.state.default_headers[:] = [(b"date", formatdate(now, usegmt=True).encode())]

    def drain(self) -> None:
        """Let idle clients go in a moment, and the others after their response."""
        self._class.draining = True
        for connection in list(self.state.connections):
            if isinstance(connection, self._class):
                connection.linger()

    def cut(self) -> None:
        """Have no more connections."""
        for connection in list(self.state.connections):
            connection.transport.abort()


def _introducing(client: tuple[str, int], app: Asgi) -> Asgi:
    async def introduced(
        scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        scope["client"] = client
        await app(scope, receive, send)

    return introduced


def _take_over_log(silence: logging.Filter, level: str) -> None:
    """What uvicorn has to say goes where our records go, its greetings aside."""
    own = logging.getLogger("prefork_sd")
    theirs = logging.getLogger("uvicorn.error")
    if theirs.level == logging.NOTSET:
        theirs.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    theirs.addFilter(silence)
    if not theirs.handlers:
        theirs.handlers, theirs.propagate = own.handlers, False


def _guarded(base: Any, cfg: Config) -> Any:
    """uvicorn's HTTP protocol with a deadline for heads, and with an end that loses no request."""
    patience = cfg.head_timeout or FOREVER
    largest = cfg.limit_request_head

    class Protocol(base):  # type: ignore[misc]
        timeout_keep_alive: float
        draining = False
        head_timer: asyncio.TimerHandle | None = None
        head_bytes = 0  # of a head that is not complete

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.expect_head()
            if self.draining:
                self.linger()

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            self.head_is_there()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self not in self.connections or not self.idle:  # a WebSocket, or a request
                self.head_is_there()
            else:
                self.expect_head()
                if self.cycle is None or not self.cycle.more_body:  # else it may be of that body
                    self.head_bytes += len(data)
                if self.head_bytes > largest:
                    self.transport.close()

        @property
        def idle(self) -> bool:
            """Whether no request is being answered."""
            return self.cycle is None or bool(self.cycle.response_complete)

        def expect_head(self) -> None:
            if self.head_timer is None:
                self.head_timer = self.loop.call_later(patience, self.close_if_idle)

        def head_is_there(self) -> None:
            self.head_bytes = 0
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def close_if_idle(self) -> None:
            self.head_timer = None
            if self.idle and self in self.connections:
                self.transport.close()

        def linger(self) -> None:
            """Wait for a request that is on its way; without one, close."""
            self.timeout_keep_alive = min(self.timeout_keep_alive, LINGER)
            self.loop.call_later(LINGER, self.end_lingering)

        def end_lingering(self) -> None:
            if not self.head_bytes:
                self.close_if_idle()

    return Protocol
