"""The listeners of a service: systemd's where it gave some, our own where it did not."""

import os
from collections.abc import Callable

from prefork_sd import listeners
from prefork_sd.activation import Inherited
from prefork_sd.config import DEFAULT_BIND, Config
from prefork_sd.control import ControlServer
from prefork_sd.errors import ConfigError, Problem
from prefork_sd.listeners import HTTP, HTTPS, STATUS, Listener


def opened(cfg: Config, given: Inherited, warn: Callable[[str], None]) -> list[Listener]:
    """Take or open the sockets on which the app is served. Raises ConfigError."""
    for warning in given.warnings:
        warn(warning)
    wanted = {HTTP: cfg.bind, HTTPS: cfg.tls_bind}
    found = [listeners.adopt(name, fd) for name, fd in given.listeners if name in wanted]
    if given.warnings and not found:
        raise ConfigError(Problem('systemd gave no listener named "http" or "https"'))
    if found:
        for name, addresses in wanted.items():
            for warning in listeners.disagreements(addresses, found, name):
                warn(warning)
        return found
    if not cfg.tls_bind:
        wanted[HTTP] = cfg.bind or DEFAULT_BIND
    return [
        _own(text, name, cfg, given) for name, addresses in wanted.items() for text in addresses
    ]


def monitors(cfg: Config, given: Inherited, warn: Callable[[str], None]) -> list[Listener]:
    """Take or open the sockets of `status_bind`. Raises ConfigError."""
    found = [listeners.adopt(name, fd) for name, fd in given.listeners if name == STATUS]
    if found or given.listeners:  # systemd opens all or none
        for warning in listeners.disagreements(cfg.status_bind, found, STATUS):
            warn(warning)
        return found
    return [_own(text, STATUS, cfg, given) for text in cfg.status_bind]


def _own(text: str, name: str, cfg: Config, given: Inherited) -> Listener:
    """The listener that we had there in a former life, or a new one. Raises ConfigError."""
    former = listeners.kept(text, name, given.own)
    return former or listeners.bind(text, cfg.backlog, name, mode=int(cfg.socket_mode, 8))


def control(cfg: Config, given: int | None = None) -> ControlServer | None:
    """Open the control socket, where there is a place for it. Raises ConfigError.

    `given` is the listener that our former image has left, so that nobody finds none meanwhile.
    """
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    path = cfg.control or (f"{runtime}/control" if runtime else "")
    if not path:
        if given is not None:
            os.close(given)
        return None
    server = ControlServer(path)
    if given is not None:
        server.adopt(given)
    server.bind()
    return server
