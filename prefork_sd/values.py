"""How the values with a form of their own are read: app, addresses, hooks, unit directives."""

import difflib
import ipaddress
import re
from collections.abc import Iterable

from prefork_sd.forwarded import HEADERS
from prefork_sd.hooks import ARITY
from prefork_sd.settings import (
    BadValueError,
    Kind,
    Setting,
    bounded,
    each,
    read_path,
    read_text,
    read_texts,
    read_whole,
    shown,
    text_schema,
)

_NAME = r"[^\W\d]\w*"
_DOTTED = rf"{_NAME}(?:\.{_NAME})*"
APP_PATH = re.compile(rf"({_DOTTED}):({_DOTTED})(\(\))?")
HOOK = re.compile(rf"{_DOTTED}[.:]{_NAME}(?:\.{_NAME})*")
ACCOUNT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\$?|[0-9]+")
MODE_TEXT = re.compile(r"0?[0-7]{3}")
DIRECTIVE = re.compile(r"[A-Z][A-Za-z0-9]*")
SECTIONS = ("Unit", "Service", "Socket", "Install")
WORKER_CLASSES = ("auto", "sync", "threads", "asgi")
CREDENTIAL = "credential:"  # in front of the name of one, in place of a file or a value
TLS_PATH = re.compile(r"/.*|credential:[A-Za-z0-9._@-]+")
HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
FRAMING = ("connection", "content-length", "date", "server", "trailer", "transfer-encoding")
SOCKET_PATH_MAX = 107  # bytes; sun_path of unix(7) less its NUL


def read_app(value: object, setting: Setting) -> str:
    """`module:callable`, both with dots as need be; `module:factory()` is called for the app."""
    app = read_text(value, setting)
    match = APP_PATH.fullmatch(app)
    if app and not match:
        raise BadValueError(
            ("", f'must be module:callable like "app:application", not {shown(app)}')
        )
    if match and match[1].endswith(".py"):
        raise BadValueError(
            ("", f'names a module, so without .py: "{app.replace(".py:", ":", 1)}"')
        )
    return app


def read_address(value: object, setting: Setting) -> str:
    """Where to listen, in one of the forms `HOST:PORT`, `[HOST]:PORT` and `unix:/path`.

    HOST is an address, never a name; a PORT alone is at 127.0.0.1; port 0 is any free one.
    """
    text = read_text(value, setting)
    path = text.removeprefix("unix:")
    if path.startswith("/"):
        if len(path.encode()) > SOCKET_PATH_MAX:
            raise BadValueError(("", f"the path of a socket has at most {SOCKET_PATH_MAX} bytes"))
        return f"unix:{path}"
    host, _, port = text.rpartition(":")
    host = {"": "127.0.0.1", "localhost": "127.0.0.1"}.get(host, host)
    try:
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or text.startswith(":"):
            raise ValueError
        if host.startswith("[") and host.endswith("]"):
            return f"[{ipaddress.IPv6Address(host[1:-1])}]:{int(port)}"
        return f"{ipaddress.IPv4Address(host)}:{int(port)}"
    except ValueError:
        forms = '"127.0.0.1:8000", "[::1]:8000", "8000" or "/run/app.sock"'
        raise BadValueError(("", f"must be an address like {forms}, not {shown(text)}")) from None


def read_bind(value: object, setting: Setting) -> tuple[str, ...]:
    """A list of addresses, or one."""
    addresses = tuple(read_address(item, setting) for item in read_texts(value, setting))
    if len(set(addresses)) < len(addresses):
        raise BadValueError(("", "names the same address twice"))
    return addresses


def read_peers(value: object, setting: Setting) -> tuple[str, ...]:
    """A list of addresses or networks; "unix" for unix sockets, "*" for everybody."""
    peers = read_texts(value, setting)
    for peer in peers:
        try:
            if peer not in ("unix", "*"):
                ipaddress.ip_network(peer, strict=False)
        except ValueError:
            forms = '"127.0.0.1", "10.0.0.0/8", "unix" or "*"'
            raise BadValueError(("", f"must be peers like {forms}, not {shown(peer)}")) from None
    return peers


def read_prefix(value: object, setting: Setting) -> str:
    """A path without a slash at its end, or nothing."""
    prefix = read_text(value, setting)
    if prefix and (not prefix.startswith("/") or prefix.endswith("/") or "//" in prefix):
        raise BadValueError(("", f'must be a path like "/shop", not {shown(prefix)}'))
    return prefix


def read_forwarded(value: object, setting: Setting) -> tuple[str, ...]:
    """A list of the headers that count; an empty one for none."""
    names = read_texts(value, setting)
    for name in names:
        if name.lower() not in HEADERS:
            raise BadValueError(("", f"must be some of {', '.join(HEADERS)}, not {shown(name)}"))
    return tuple(name.lower() for name in names)


def read_tls_file(value: object, setting: Setting) -> str:
    """An absolute path, or `credential:NAME` for one of systemd's credentials, or nothing."""
    file = read_text(value, setting)
    if file and not TLS_PATH.fullmatch(file):
        forms = f'"{setting.example}" or "{CREDENTIAL}{setting.name}"'
        raise BadValueError(("", f"must be an absolute path like {forms}, not {shown(file)}"))
    return file


def read_header(value: object, setting: Setting) -> str:
    """The name of a response header that is nobody else's."""
    name = read_text(value, setting)
    if name and not HEADER_NAME.fullmatch(name):
        text = f'must be the name of a header, like "X-Request-ID", not {shown(name)}'
        raise BadValueError(("", text))
    if name.lower() in FRAMING:
        raise BadValueError(("", f"must not be {name}, which has a meaning of its own"))
    return name


def read_mode(value: object, setting: Setting) -> str:
    """A file mode of three octal digits, with or without a 0 before them."""
    mode = read_text(value, setting)
    if not MODE_TEXT.fullmatch(mode):
        raise BadValueError(("", f'must be an octal mode like "0660", not {shown(value)}'))
    return mode.zfill(4)


def read_account(value: object, setting: Setting) -> str:
    """The name or number of a user or a group, or nothing."""
    account = read_text(value, setting)
    if account and not ACCOUNT_NAME.fullmatch(account):
        raise BadValueError(("", f"must be a name like {setting.example}, not {shown(account)}"))
    return account


def read_workers(value: object, setting: Setting) -> int:
    """A number of worker processes; 0 stands for "auto"."""
    if value == "auto":
        return 0
    try:
        return read_whole(value, setting)
    except BadValueError as error:
        raise BadValueError(("", str(error).replace(", not ", ' or "auto", not ', 1))) from None


def read_worker_class(value: object, setting: Setting) -> str:
    """A worker class of ours, or the dotted path of another one."""
    name = read_text(value, setting)
    if name not in WORKER_CLASSES and not HOOK.fullmatch(name):
        ours = ", ".join(WORKER_CLASSES)
        text = f"must be one of {ours} or a path like package.module.Class, not {name}"
        raise BadValueError(("", f"{text}{nearest(name, WORKER_CLASSES)}"))
    return name


def read_access_log(value: object, setting: Setting) -> str:
    """One of the choices; YAML reads a bare `off` as false."""
    return read_text("off" if value is False else value, setting)


def read_hooks(value: object, setting: Setting) -> str | dict[str, str]:
    """A mapping of hooks to dotted paths, or the path of a Python file that defines them."""
    if isinstance(value, str):
        return read_path(value, setting)

    def one(name: str, path: object) -> str:
        if name not in ARITY:
            raise BadValueError(("", f"is not a hook{nearest(name, ARITY)}"))
        if not isinstance(path, str) or not HOOK.fullmatch(path):
            raise BadValueError(
                ("", f'must be module:function like "hooks:{name}", not {shown(path)}')
            )
        return path

    return each(value, "a Python file, or a mapping of hooks to module:function", one)


def read_unit(value: object, setting: Setting) -> dict[str, dict[str, tuple[str, ...]]]:
    """Sections of directives for the generated units; each value is a tuple of lines.

    A list is one line for each item; nothing is the empty assignment, which resets a list.
    """

    def line(item: object) -> str:
        if isinstance(item, bool):
            return "yes" if item else "no"
        text = read_text("" if item is None else item, setting)
        if text.endswith("\\"):
            raise BadValueError(("", "must not end with a backslash"))
        return text

    def directive(name: str, item: object) -> tuple[str, ...]:
        if not DIRECTIVE.fullmatch(name):
            raise BadValueError(("", "is not the name of a directive"))
        return tuple(map(line, item if isinstance(item, list | tuple) else [item]))

    def section(name: str, item: object) -> dict[str, tuple[str, ...]]:
        if name not in SECTIONS:
            raise BadValueError(("", f"must be one of the sections {', '.join(SECTIONS)}"))
        return each(item, "a mapping of directives to values", directive)

    return each(value, "a mapping of sections to directives", section)


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about a name that is not known."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def pattern_schema(pattern: re.Pattern[str], *, empty: bool) -> dict[str, object]:
    """The schema of a text that matches, or is empty where that is allowed."""
    return {"type": "string", "pattern": f"^({pattern.pattern}){'?' if empty else ''}$"}


def one_or_more(schema: dict[str, object]) -> dict[str, object]:
    """The schema of one such value, or of a list of them."""
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


DIRECTIVES: dict[str, object] = {
    "type": "object",
    "propertyNames": {"pattern": f"^{DIRECTIVE.pattern}$"},
    "additionalProperties": one_or_more({"type": ["string", "number", "boolean", "null"]}),
}

APP = Kind(read_app, lambda _: pattern_schema(APP_PATH, empty=True), as_written=True)
BIND = Kind(read_bind, lambda _: one_or_more({"type": ["string", "integer"]}), as_written=True)
PEERS = Kind(read_peers, lambda _: one_or_more({"type": "string"}), as_written=True)
PREFIX = Kind(read_prefix, lambda _: {"type": "string", "pattern": "^(/[^/]+)*$"})
FORWARDED = Kind(read_forwarded, lambda _: one_or_more({"enum": list(HEADERS)}))
TLS_FILE = Kind(read_tls_file, lambda _: pattern_schema(TLS_PATH, empty=True), as_written=True)
HEADER = Kind(read_header, lambda _: pattern_schema(HEADER_NAME, empty=True))
MODE = Kind(read_mode, lambda _: pattern_schema(MODE_TEXT, empty=False), as_written=True)
ACCOUNT = Kind(read_account, lambda _: pattern_schema(ACCOUNT_NAME, empty=True), as_written=True)
WORKERS = Kind(
    read_workers, lambda setting: {"anyOf": [{"const": "auto"}, bounded("integer", setting)]}
)
WORKER_CLASS = Kind(
    read_worker_class,
    lambda _: {"anyOf": [{"enum": list(WORKER_CLASSES)}, pattern_schema(HOOK, empty=False)]},
)
ACCESS_LOG = Kind(
    read_access_log,
    lambda setting: {"anyOf": [text_schema(setting), {"const": False}]},
)
HOOKS = Kind(
    read_hooks,
    lambda _: {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {name: pattern_schema(HOOK, empty=False) for name in ARITY},
                "additionalProperties": False,
            },
        ]
    },
)
UNIT = Kind(
    read_unit,
    lambda _: {
        "type": "object",
        "properties": dict.fromkeys(SECTIONS, DIRECTIVES),
        "additionalProperties": False,
    },
    as_written=True,
)
