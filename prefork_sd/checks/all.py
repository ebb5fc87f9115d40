"""Everything that is looked at for one service, in the order in which it is told."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prefork_sd import systemctl, units
from prefork_sd.building import salvage
from prefork_sd.checks import addresses, machine
from prefork_sd.checks.access import NEEDED, Identity, closed_files, closed_path
from prefork_sd.checks.finding import Finding
from prefork_sd.checks.unitfile import Loaded, hidden_finding, unit_findings
from prefork_sd.checks.venv import venv_findings
from prefork_sd.checks.verified import drafts, refused
from prefork_sd.config import Config
from prefork_sd.errors import ConfigError
from prefork_sd.sources import folders, read, services, templates

DYNAMIC = range(61184, 65520)  # the numbers that systemd gives to a DynamicUser
OWN = ("/var/lib/prefork-sd/", "/var/cache/prefork-sd/", "/run/prefork-sd/")
# where these are set, paths are not what they look like from outside
MOUNTS = ("BindPaths", "BindReadOnlyPaths", "RootDirectory", "RootImage", "TemporaryFileSystem")
# and where these are, somebody else runs it, or with other rights
IDENTITY = ("User", "Group", "SupplementaryGroups", "DynamicUser", "AmbientCapabilities")


def findings(name: str, path: Path, cfg: Config) -> Iterator[Finding]:
    """Yield what somebody should look at before the service starts or reloads.

    `cfg` has absolute paths, as the loader makes them. Nothing of the app is imported.
    """
    path = path.absolute()
    written = salvage(read(path)[0])  # as the generator has it, relative paths and all
    texts = units.render(name, written, source=str(path), templates=templates())
    installed = path.parent in folders()
    loaded = machine.loaded(name, texts) if installed else Loaded(name, {})
    yield from unit_findings(loaded, cfg)
    if cfg.unit:
        yield from refused(cfg.unit, machine.verified(drafts(cfg.unit)))
    yield from _judged(_accounts(name, cfg, loaded), cfg, loaded)
    yield from _judged(_paths(path if installed else None, cfg, loaded), cfg, loaded)
    if cfg.venv:
        yield from venv_findings(Path(cfg.venv))
    yield from _judged(_addresses(name, cfg, loaded), cfg, loaded)


def _judged(found: Iterable[Finding], cfg: Config, loaded: Loaded) -> Iterator[Finding]:
    """Yield them; few stop a service that is not systemd's, or that may run otherwise."""
    own = cfg.unit.get("Service", {})
    sure = loaded.foreseen and not any(key in own for key in IDENTITY)
    for finding in found:
        yield finding if sure or finding.missing else dataclasses.replace(finding, stops=False)


# ---- who it runs as, and what they can read


def _accounts(name: str, cfg: Config, loaded: Loaded) -> Iterator[Finding]:
    if cfg.user and machine.account(cfg.user) is None:
        mend = f"adduser --system --group {cfg.user}, or leave user out"
        why = "the service cannot start (217)"
        yield Finding(f"user: there is no {cfg.user}", why, mend, stops=_says(loaded, cfg, "User"))
    if not cfg.user and (known := machine.account(name)) and known.uid not in DYNAMIC:
        text = f"a user {name} exists, and DynamicUser takes the service's name"
        mend = f"say so with user: {name}, or give the file another name"
        yield Finding(text, "the service runs as that user", mend)
    opened = loaded.active or loaded.listening or "Socket" in cfg.unit or not _unix(name, cfg)
    for key, stops in (("group", _says(loaded, cfg, "Group")), ("socket_group", not opened)):
        group = getattr(cfg, key)
        if group and not [*machine.gids_of((group,))]:
            mend = f"addgroup --system {group}, or name another"
            why = "the unit cannot start (216)"
            yield Finding(f"{key}: there is no group {group}", why, mend, stops=stops)
    if cfg.socket_user and machine.account(cfg.socket_user) is None:
        text = f"socket_user: there is no {cfg.socket_user}"
        mend = f"adduser --system {cfg.socket_user}"
        yield Finding(text, "the socket cannot start", mend, stops=not opened)


def _says(loaded: Loaded, cfg: Config, directive: str) -> bool:
    """Whether User= or Group=, as far as it is loaded, is what the file says."""
    return not loaded.known or loaded.service.get(directive) == getattr(cfg, directive.lower())


def _unix(name: str, cfg: Config) -> bool:
    """Whether the service has a unix socket."""
    own = [address for one in units.sockets(name, cfg) for address in one.addresses]
    return any(address.startswith("unix:") for address in own)


def identity_of(name: str, cfg: Config, loaded: Loaded) -> Identity:
    """Who the service runs as: by the unit that is loaded, else by the file."""
    shown = loaded.service if loaded.known else {}
    groups = tuple(shown.get("SupplementaryGroups", "").split())
    user = shown.get("User", "") or cfg.user or name
    known = machine.account(user, groups)
    if known and known.uid not in DYNAMIC:
        return known
    return Identity(user, None, frozenset(machine.gids_of(groups)))


def _paths(file: Path | None, cfg: Config, loaded: Loaded) -> Iterator[Finding]:
    """Yield the paths that the unit hides from the service, or that its user cannot read."""
    own = cfg.unit.get("Service", {})
    if any(loaded.service.get(key) or key in own for key in MOUNTS):
        return
    real = dataclasses.replace(
        cfg,
        directory=_real(cfg.directory),
        venv=_real(cfg.venv),
        env_file=_real(cfg.env_file),
    )
    unseen = set()
    python = _real(f"{cfg.venv}/bin/python") if cfg.venv else ""
    inner = dataclasses.replace(real, directory="", env_file="", venv=python)
    for one in (*units.hidden(real), *units.hidden(inner)):
        if one.key != "venv" and not machine.exists(one.path):
            continue  # there is nothing to hide
        if finding := hidden_finding(one, loaded):
            unseen.add(one.key)
            yield finding
    identity = identity_of(loaded.name, cfg, loaded)
    hooks = cfg.hooks if isinstance(cfg.hooks, str) else ""
    for key, path in (
        ("file", str(file or "")),
        ("directory", cfg.directory),
        *(("pythonpath", folder) for folder in cfg.pythonpath),
        ("venv", cfg.venv),
        ("venv", python),
        ("env_file", cfg.env_file),
        ("hooks", hooks),
    ):
        if not path or key in unseen or path.startswith(OWN):
            continue
        if finding := _unreadable(key, path, identity):
            yield finding
        elif key == "directory":
            needed = machine.app_files(cfg.app, (path, *cfg.pythonpath))
            if finding := closed_files(path, machine.sources(Path(path)), identity, needed):
                yield finding


def _unreadable(key: str, path: str, identity: Identity) -> Finding | None:
    if not machine.exists(path):
        if key == "venv":
            return None  # which has its own checks
        stops = key in NEEDED
        why = "the service cannot work without it" if stops else "nothing is imported from there"
        text = f"{key}: there is no {path}"
        return Finding(text, why, "correct the path", stops=stops, missing=stops)
    return closed_path(key, machine.way(path), identity)


def _real(path: str) -> str:
    return os.path.realpath(path) if path else ""


# ---- addresses


def _addresses(name: str, cfg: Config, loaded: Loaded) -> Iterator[Finding]:
    sockets = units.sockets(name, cfg)
    own = [(socket.key, address) for socket in sockets for address in socket.addresses]
    twice = list(addresses.declared_twice(own, *_others(name)))
    yield from twice
    for one in own:
        if finding := addresses.elsewhere(one, machine.has_address):
            yield finding
    if systemctl.booted():
        yield from () if twice or loaded.foreign else _listening(name, cfg, loaded)
        yield from _unreachable([at for key, at in own if key != "status_bind"], cfg)
    if loaded.service:
        return  # systemd opens them
    first = machine.unprivileged_port()
    for one in own:
        if finding := addresses.below(one, first):
            yield finding


def _others(name: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """(addresses, file) of each other service, as far as its file can be read."""
    found: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    for other, file in services().items():
        if other == name:
            continue
        try:
            cfg = salvage(read(file)[0])
        except ConfigError:
            continue
        if cfg.app:
            files[other] = str(file)
            found[other] = [a for one in units.sockets(other, cfg) for a in one.addresses]
    return found, files


def _listening(name: str, cfg: Config, loaded: Loaded) -> Iterator[Finding]:
    """Yield who holds an address that is ours, and where nobody listens though we should."""
    found = machine.listening()
    holders = machine.owners({one.inode for one in found})
    for one in units.sockets(name, cfg):
        active = loaded.sockets.get(one.unit, {}).get("ActiveState") == "active"
        for address in one.addresses:
            if not active:
                finding = addresses.taken((one.key, address), found, holders)
                if finding and loaded.active:  # by the service itself, maybe
                    finding = dataclasses.replace(finding, stops=False)
            elif one.unit not in loaded.stale:
                finding = addresses.unheard(one.unit, address, found)
            else:
                continue  # which is told already
            if finding:
                yield finding


def _unreachable(own: list[str], cfg: Config) -> Iterator[Finding]:
    """Yield a unix socket that no installed proxy can use, where there is no other address."""
    if not own or not all(address.startswith("unix:") for address in own):
        return
    proxies = machine.proxies()
    for address in own:
        path = address.removeprefix("unix:")
        way, socket = machine.socket_node(path, cfg.socket_mode, cfg.socket_user, cfg.socket_group)
        finding = addresses.unreachable(way, socket, proxies, group=cfg.socket_group)
        if finding:
            yield finding
