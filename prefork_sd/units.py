"""From a configuration to the texts of NAME.service and its sockets. Nothing is written here."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from prefork_sd.config import FOLDERS, Config

EXECUTABLE = "/usr/bin/prefork-sd"
MARGIN = 10.0  # seconds between our own deadlines and those of systemd, which kills
NO_EXEC = ("/var", "/run", "/tmp", "/dev/shm")
HOMES = ("/home", "/root", "/run/user")
TEMPORARY = ("/tmp", "/var/tmp")
MISSING = "missing"  # instead of a file that is not there, which the server can then name
TLS_FILES = ("tls_certificate", "tls_key", "tls_client_ca")
UNIT_NAME = re.compile(r"[A-Za-z0-9:_.@\\-]+\.(service|socket|target)")
_PLACE = re.compile(r"@([A-Z_]+)@")
_SECTION = re.compile(r"^\[([A-Za-z]+)\]$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Socket:
    """A socket unit: its name without ".socket", that of its descriptors, and its addresses."""

    name: str
    kind: str
    addresses: tuple[str, ...]

    @property
    def unit(self) -> str:
        return f"{self.name}.socket"

    @property
    def key(self) -> str:
        """The setting that has its addresses."""
        return {"https": "tls_bind", "status": "status_bind"}.get(self.kind, "bind")


def sockets(name: str, cfg: Config) -> Iterator[Socket]:
    """Yield the socket units of a service; there is at least one."""
    if cfg.bind or not cfg.tls_bind:
        yield Socket(name, "http", cfg.bind or (f"unix:/run/prefork-sd/{name}.sock",))
    if cfg.tls_bind:
        yield Socket(f"{name}-tls", "https", cfg.tls_bind)
    if cfg.status_bind:
        yield Socket(f"{name}-status", "status", cfg.status_bind)


def render(
    name: str,
    cfg: Config,
    *,
    source: str,
    executable: str = EXECUTABLE,
    templates: Mapping[str, str],
) -> dict[str, str]:
    """The unit files of a service, by their file names.

    `name` is one that `sources.find` accepts; `source` is the absolute path of the YAML file;
    `templates` has the texts "service" and "socket". The directives of `unit` come last in their
    section, so that they win, or add to a list, by the rules of systemd.syntax(7).
    """
    standard = str(PurePath(source).parent) in FOLDERS
    listeners = list(sockets(name, cfg))
    values = {
        "NAME": name,
        "SOURCE": source.replace("%", "%%"),
        "SOURCE_TEXT": source,
        "EXECUTABLE": word(executable),
        "TARGET": name if standard else word(source),
        "TIMEOUT_START": span(cfg.boot_timeout + MARGIN),
        "TIMEOUT_STOP": span(cfg.graceful_timeout + MARGIN),
        "WATCHDOG": span(cfg.watchdog),
        "SOCKETS": " ".join(socket.unit for socket in listeners),
        "IDENTITY": "\n".join([*_identity(cfg), *_credentials(cfg)]),
        "NO_EXEC_PATHS": " ".join(root for root in NO_EXEC if not _code_below(cfg, root)),
        "BACKLOG": str(cfg.backlog),
    }
    service = {section: cfg.unit.get(section, {}) for section in ("Unit", "Service", "Install")}
    texts = {f"{name}.service": _appended(_filled(templates["service"], values), service)}
    for one in listeners:
        own = {"UNIT": one.unit, "KIND": one.kind, "LISTEN": "\n".join(_listen(one, cfg))}
        # one command stops them all, so that none starts the service again
        first = one is listeners[0]
        own["PART_OF"] = "" if first else f"PartOf={listeners[0].unit}\n"
        text = _filled(templates["socket"], {**values, **own})
        texts[one.unit] = _appended(text, {"Socket": cfg.unit.get("Socket", {})})
    return texts


def word(text: str) -> str:
    """One word of a command line, by the quoting rules of systemd.service(5)."""
    text = text.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_./:+,@%$=-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def span(seconds: float) -> str:
    """A time span as in systemd.time(7); 0 is "0"."""
    text = f"{seconds:.3f}".rstrip("0").rstrip(".")
    return text if text == "0" else f"{text}s"


def wanted_by(cfg: Config) -> tuple[str, ...]:
    """The units that pull the service in at boot: the usual one and those of `unit: Install`."""
    lines = cfg.unit.get("Install", {}).get("WantedBy", ())
    names = [name for line in lines for name in line.split() if UNIT_NAME.fullmatch(name)]
    return ("multi-user.target", *names)


@dataclass(frozen=True, slots=True)
class Hidden:
    """A path that a directive of the unit hides from the service, and how to have it seen."""

    key: str
    path: str
    directive: str
    mend: str

    def __str__(self) -> str:
        return f"{self.key}: {self.path} is hidden by {self.directive}=yes"


HIDING = {
    "ProtectHome": (HOMES, "set unit: {Service: {ProtectHome: read-only}}"),
    "PrivateTmp": (TEMPORARY, "set a user and unit: {Service: {PrivateTmp: no}}"),
}


def hidden(cfg: Config) -> Iterator[Hidden]:
    """Yield the paths that the unit's protection hides from the service."""
    own = cfg.unit.get("Service", {})
    for key, path in (("directory", cfg.directory), ("venv", cfg.venv), ("env_file", cfg.env_file)):
        for directive, (folders, otherwise) in HIDING.items():
            if path and any(_below(path, one) for one in folders) and directive not in own:
                yield Hidden(key, path, directive, f"move it (to /srv, say), or {otherwise}")


def notes(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each path that the unit's protection hides from the service."""
    for one in hidden(cfg):
        yield f"{one}; {one.mend}"


def _identity(cfg: Config) -> Iterator[str]:
    if not cfg.user:
        yield "DynamicUser=yes"
        return
    yield f"User={cfg.user}"
    if cfg.group:
        yield f"Group={cfg.group}"


def _credentials(cfg: Config) -> Iterator[str]:
    """Copies of files that the service's user may not be able to read: systemd.exec(5)."""
    given = any("Credential" in key for key in cfg.unit.get("Service", {}))
    if not (cfg.tls_bind or given):
        return
    if cfg.tls_bind:
        yield "# the server reads the files themselves where it may"
    for key in TLS_FILES:
        path = getattr(cfg, key)
        if path.startswith("/"):
            yield f"LoadCredential={key}:{path.replace('%', '%%')}"
            yield f"SetCredential={key}:{MISSING}"  # else: "Protocol error", and no more
    yield "# 260 and later: a reload takes renewed ones; before that a restart does"
    yield "RefreshOnReload=credentials"


def _listen(socket: Socket, cfg: Config) -> Iterator[str]:
    paths = [address for address in socket.addresses if address.startswith("unix:")]
    for address in socket.addresses:
        yield f"ListenStream={address.removeprefix('unix:').replace('%', '%%')}"
    if paths:
        yield f"SocketMode={cfg.socket_mode}"
        if cfg.socket_user:
            yield f"SocketUser={cfg.socket_user}"
        if cfg.socket_group:
            yield f"SocketGroup={cfg.socket_group}"
    if len(paths) < len(socket.addresses):
        yield "# an address may come up later than the socket"
        yield "FreeBind=yes"


def _below(path: str, folder: str) -> bool:
    return PurePath(path).is_relative_to(folder)


def _code_below(cfg: Config, root: str) -> bool:
    """Whether shared libraries of the app may lie there. A later release may, so all of it may."""
    return any(_below(path, root) for path in (cfg.directory, cfg.venv, *cfg.pythonpath) if path)


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda match: values[match[1]], template)


def _appended(text: str, sections: Mapping[str, Mapping[str, tuple[str, ...]]]) -> str:
    """`text` with directives at the end of their sections."""
    heads = list(_SECTION.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in reversed(list(zip(heads, ends, strict=True))):
        directives = sections.get(head[1], {})
        lines = [f"{key}={value}\n" for key, values in directives.items() for value in values]
        if lines:
            body = text[:end].rstrip("\n")
            text = f"{body}\n# from `unit` of the YAML file\n{''.join(lines)}{_gap(text, end)}"
    return text


def _gap(text: str, end: int) -> str:
    return f"\n{text[end:]}" if end < len(text) else ""
