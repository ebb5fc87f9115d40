"""The units that systemd has loaded, beside those that the YAML file gives."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prefork_sd.checks.finding import Finding
from prefork_sd.config import Config
from prefork_sd.settings import TIME_UNITS
from prefork_sd.units import Hidden

GENERATED = "/run/systemd/generator"
PACKAGED = ("/lib/", "/usr/lib/")  # where units are dpkg's
# as systemctl(1) shows a time span, beside what a setting may say
SPANS = {**TIME_UNITS, "w": 7 * 86400.0, "month": 2629800.0, "y": 31557600.0}
COMMAND = re.compile(r'="?/[^"]*?/prefork-sd"? ')
PART = re.compile(r"([0-9.]+)([a-z]+)")

Properties = Mapping[str, str]  # of systemctl show; empty where there is no systemd


@dataclass(frozen=True, slots=True)
class Loaded:
    """A service's units as systemd has them, by their names.

    `expected` has the texts that the YAML file gives, `files` those that systemd was given.
    """

    name: str
    service: Properties
    sockets: Mapping[str, Properties] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether what is loaded tells anything of the service as it will run."""
        return self.service.get("LoadState") == "loaded" and self.ours and not self.stale

    @property
    def ours(self) -> bool:
        return "prefork-sd run" in self.service.get("ExecStart", "")

    @property
    def foreign(self) -> bool:
        """Whether it is another program's, which has the same name."""
        there = self.service.get("LoadState", "not-found") not in ("not-found", "masked")
        generated = self.service.get("FragmentPath", "").startswith(GENERATED)
        return there and not (self.ours or generated)

    @property
    def stale(self) -> list[str]:
        """The units whose files are not what the YAML file gives."""
        texts = self.expected.items()
        return [unit for unit, text in texts if directives(text) != directives(self.files[unit])]

    @property
    def foreseen(self) -> bool:
        """Whether the service will run as it is known, or as the YAML file alone has it."""
        generated = self.service.get("FragmentPath", "").startswith(GENERATED)
        as_written = generated or self.service.get("LoadState") == "not-found"
        if any(socket.get("DropInPaths") for socket in self.sockets.values()):
            return False
        return self.known or (as_written and not self.service.get("DropInPaths"))

    @property
    def active(self) -> bool:
        """Whether the service is, as systemd says."""
        return self.service.get("ActiveState", "inactive") not in ("inactive", "failed")

    @property
    def listening(self) -> bool:
        """Whether all of its sockets are active."""
        states = [one.get("ActiveState") for one in self.sockets.values()]
        return bool(states) and all(state == "active" for state in states)


def unit_findings(loaded: Loaded, cfg: Config) -> Iterator[Finding]:
    """Yield what is wrong with the units as they are loaded."""
    state = loaded.service.get("LoadState", "")
    unit = f"{loaded.name}.service"
    reload = "systemctl daemon-reload"
    if not state:
        return
    moved = {} if loaded.foreign else dict(_moved(loaded))
    if state == "not-found":
        text = f"systemd does not know {unit} yet"
        yield Finding(text, "units are made of YAML files when systemd reloads", reload)
    elif state == "masked":
        text = f"{unit} is masked: {loaded.service.get('FragmentPath')}"
        yield Finding(text, "it cannot be started", f"systemctl unmask {unit}", stops=True)
    elif not loaded.service.get("FragmentPath", "").startswith(GENERATED):
        yield from _shadowed(loaded)
    elif stale := [unit for unit in loaded.stale if unit not in moved]:
        text = f"not yet as the YAML file says: {', '.join(stale)}"
        yield Finding(text, "units are made of YAML files when systemd reloads", reload)
        reload = ""
    if loaded.known:
        yield from _deadlines(loaded, cfg)
        yield from _closed(loaded)
    if not loaded.foreign:
        yield from _failed(loaded)
    if moved:
        why = "addresses change when a socket is restarted"
        mend = f"systemctl restart {' '.join(moved)}"
        yield Finding("; ".join(moved.values()), why, " && ".join(filter(None, (reload, mend))))


def _shadowed(loaded: Loaded) -> Iterator[Finding]:
    """Yield what a unit file of one's own, which wins over the generated one, gets wrong."""
    path, unit = loaded.service.get("FragmentPath", ""), f"{loaded.name}.service"
    away = f"rm {path} && systemctl daemon-reload"
    if loaded.foreign:
        argv = re.search(r"argv\[\]=(.*?) ;", loaded.service.get("ExecStart", ""))
        what = f" and runs: {argv[1]}" if argv else ""
        text = f"{unit} is {path}, which wins over the generated unit{what}"
        mend = f"systemctl stop {unit} && {away}"
        if path.startswith(PACKAGED):
            mend = "give the YAML file another name"
        yield Finding(text, "the YAML file has no effect", mend, stops=True)
    elif unit in loaded.stale:
        text = f"{unit} is {path}, which is not what the YAML file gives"
        why = "a changed YAML file does not change a unit that was written from it"
        yield Finding(text, why, f"{away}, or write it anew from: prefork-sd unit {loaded.name}")


def _deadlines(loaded: Loaded, cfg: Config) -> Iterator[Finding]:
    """Yield the deadlines of systemd that are shorter than the server's own."""
    drop_ins = loaded.service.get("DropInPaths", "") or loaded.service.get("FragmentPath", "")
    for directive, key, ours, why in (
        ("TimeoutStartUSec", "boot_timeout", cfg.boot_timeout, "a start or reload is cut short"),
        ("TimeoutStopUSec", "graceful_timeout", cfg.graceful_timeout,
         "requests are killed before they may finish"),
    ):  # fmt: skip
        theirs = seconds(loaded.service.get(directive, "infinity"))
        if theirs < ours:
            name = directive.replace("USec", "Sec")
            text = f"{name}= is {theirs:g} s, and {key} is {ours:g} s"
            yield Finding(text, why, f"take {name}= out of {drop_ins}; the generated unit has it")


def _closed(loaded: Loaded) -> Iterator[Finding]:
    """Yield the sockets that are not open though the service runs, as one: a start opens all."""
    states = {unit: one.get("ActiveState") for unit, one in loaded.sockets.items()}
    closed = [unit for unit, state in states.items() if state == "inactive"]
    if closed and loaded.active:
        text = f"inactive, though the service runs: {', '.join(closed)}"
        kept = [unit for unit, state in states.items() if state == "active"]
        mend = f"systemctl restart {' '.join(kept) or loaded.name}"
        yield Finding(text, "a reload opens no sockets", mend)


def _failed(loaded: Loaded) -> Iterator[Finding]:
    """Yield the sockets that have failed."""
    for unit, properties in loaded.sockets.items():
        if properties.get("ActiveState") == "failed":
            text = f"{unit} has failed ({properties.get('Result', '')})"
            mend = f"journalctl -u {unit} says why; then systemctl restart {unit}"
            yield Finding(text, "nobody listens for the service", mend, stops=True)


def _moved(loaded: Loaded) -> Iterator[tuple[str, str]]:
    """Yield (socket, sentence) of those that listen elsewhere; `Listen` has the addresses."""
    for unit, properties in loaded.sockets.items():
        listening = set(re.findall(r"(\S+) \(Stream\)", properties.get("Listen", "")))
        wanted = set(re.findall(r"^ListenStream=(.*)$", loaded.expected.get(unit, ""), re.M))
        active = properties.get("ActiveState") == "active"
        if active and listening and listening != wanted:
            told = f"listens on {_names(listening)}, and the YAML file says {_names(wanted)}"
            yield unit, f"{unit} {told}"


def directives(text: str) -> list[str]:
    """The lines of a unit file that count, wherever the command prefork-sd lies."""
    lines = (COMMAND.sub("=prefork-sd ", line) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", ";"))]


def _names(addresses: set[str]) -> str:
    return ", ".join(sorted(addresses))


def seconds(text: str) -> float:
    """A time span as systemctl shows it: "1min 10s", "500ms", "infinity", "0"."""
    if text in ("infinity", ""):
        return math.inf
    return sum(float(number) * SPANS.get(unit, math.inf) for number, unit in PART.findall(text))


def hidden_finding(one: Hidden, loaded: Loaded) -> Finding | None:
    """What the unit hides, unless a drop-in shows it."""
    said = loaded.service.get(one.directive, "yes") if loaded.known else "yes"
    if said in ("no", "read-only"):
        return None
    return Finding(str(one), "the service sees an empty folder there", one.mend, stops=True)
