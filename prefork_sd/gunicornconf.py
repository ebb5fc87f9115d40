"""From the settings of a gunicorn to ours: what has a counterpart, and what to do about the rest.

Compared with gunicorn 27. Nothing is read or run here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from prefork_sd.config import SETTINGS
from prefork_sd.draft import Choice
from prefork_sd.hooks import ARGUMENTS
from prefork_sd.settings import BadValueError

CLASSES = {
    "sync": "sync",
    "gthread": "threads",
    "gunicorn.workers.gthread.ThreadWorker": "threads",
    "gunicorn.workers.sync.SyncWorker": "sync",
    "asgi": "asgi",
    "gunicorn.workers.gasgi.ASGIWorker": "asgi",
    "uvicorn.workers.UvicornWorker": "asgi",
    "uvicorn.workers.UvicornH11Worker": "asgi",
    "uvicorn_worker.UvicornWorker": "asgi",
    "uvicorn_worker.UvicornH11Worker": "asgi",
}
GREEN = re.compile(r".*(gevent|eventlet|tornado).*")
SAME = (
    "backlog",
    "workers",
    "threads",
    "worker_connections",
    "max_requests",
    "max_requests_jitter",
    "timeout",
    "graceful_timeout",
    "keepalive",
    "limit_request_line",
    "limit_request_fields",
    "limit_request_field_size",
    "preload_app",
    "proc_name",
)
SECRET = re.compile(r"SECRET|PASSW|TOKEN|CREDENTIAL|PRIVATE|_KEY$|_URL$|DSN", re.IGNORECASE)
CERT_OPTIONAL = 1  # ssl.CERT_OPTIONAL
DEFAULT_SCHEME_HEADERS = {"X-FORWARDED-PROTOCOL", "X-FORWARDED-PROTO", "X-FORWARDED-SSL"}
METRICS = "metrics are at `status_bind`, for Prometheus"
JOURNAL = "records go to the journal with fields: journalctl -u NAME"
SYSTEMD = "systemd does that"
TLS = "TLS is as Python's ssl module has it by default"
STRICT = "requests are read strictly, without exceptions"
# what has no counterpart, and why; what a file sets to nothing or to the default is not told
NONE = {
    "access_log_format": JOURNAL,
    "logconfig": JOURNAL,
    "logconfig_dict": JOURNAL,
    "logconfig_json": JOURNAL,
    "logger_class": JOURNAL,
    "syslog": JOURNAL,
    "syslog_addr": JOURNAL,
    "syslog_prefix": JOURNAL,
    "syslog_facility": JOURNAL,
    "disable_redirect_access_to_syslog": JOURNAL,
    "statsd_host": METRICS,
    "statsd_prefix": METRICS,
    "statsd_socket": METRICS,
    "dogstatsd_tags": METRICS,
    "enable_backlog_metric": METRICS,
    "daemon": SYSTEMD,
    "pidfile": f"{SYSTEMD}: systemctl show -p MainPID NAME",
    "reload": "say systemctl reload NAME, or use a path unit of systemd (PathChanged=)",
    "reload_extra_files": "say systemctl reload NAME",
    "reload_engine": "say systemctl reload NAME",
    "check_config": "say prefork-sd check NAME",
    "print_config": "log_level: debug prints it",
    "spew": "there is none; a worker that hangs leaves its stacks in the journal",
    "reuse_port": "workers share one socket, so that none is lost at a reload",
    "worker_tmp_dir": "heartbeats are in shared memory",
    "tmp_upload_dir": "bodies spool to the service's own /var/tmp",
    "paste": "write a module with `app = paste.deploy.loadapp(...)` and name it in `app`",
    "ciphers": TLS,
    "ssl_version": TLS,
    "do_handshake_on_connect": TLS,
    "suppress_ragged_eofs": TLS,
    "header_map": STRICT,
    "strip_header_spaces": STRICT,
    "permit_obsolete_folding": STRICT,
    "permit_unconventional_http_method": STRICT,
    "permit_unconventional_http_version": STRICT,
    "casefold_http_method": STRICT,
    "proxy_allow_ips": "`forwarded_allow_ips` counts for both",
    "forwarder_headers": "`forwarded_headers` says what is believed, `script_name` the prefix",
    "asgi_loop": "uvloop is used where it is installed",
    "asgi_lifespan": "the lifespan is run where the app has one",
    "root_path": "set `script_name`",
    "http_protocols": "HTTP/1.1 only; a proxy in front brings HTTP/2",
    "control_socket": "it is /run/prefork-sd/NAME/control: prefork-sd status, reload, scale",
    "sendfile": "files of wsgi.file_wrapper are always sent so",
}
QUIET = {  # gunicorn's defaults, which ask for nothing
    "sendfile": True,
    "suppress_ragged_eofs": True,
    "header_map": "drop",
    "proxy_allow_ips": "127.0.0.1",
    "asgi_loop": "auto",
    "asgi_lifespan": "auto",
    "reload_engine": "auto",
    "syslog_facility": "user",
    "logger_class": "gunicorn.glogging.Logger",
}


@dataclass(frozen=True, slots=True)
class Remark:
    """A setting of gunicorn's that is not simply taken over, and what to do about it."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


@dataclass(slots=True)
class Imported:
    """What a configuration becomes."""

    chosen: dict[str, Choice] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def choose(self, name: str, value: object, source: str, why: str = "") -> None:
        """Set one of ours, or remark why that value cannot be had."""
        try:
            SETTINGS[name].kind.read(value, SETTINGS[name])
        except BadValueError as error:
            self.remark(source, f"`{name}` {error}")
        else:
            self.chosen[name] = Choice(value, why or f"gunicorn's {source}")

    def remark(self, name: str, text: str) -> None:
        self.remarks.append(Remark(name, text))


def convert(
    settings: Mapping[str, Any], functions: Mapping[str, int], *, file: str, directory: str
) -> Imported:
    """Our settings for gunicorn's, and remarks about what is not taken over.

    `functions` has, by name, the number of arguments of each function that the file defines.
    `directory` is where relative paths start, unless the file sets `chdir`.
    """
    done = Imported()
    home = str(PurePath(directory, str(settings.get("chdir") or "")))
    done.choose("directory", home, "chdir" if settings.get("chdir") else "folder")
    for name in SAME:
        if settings.get(name) is not None:
            done.choose(name, settings[name], name)
    for step in STEPS:
        step(done, settings, home)
    for name, why in NONE.items():
        if settings.get(name) and settings[name] != QUIET.get(name):
            done.remark(name, why)
    for name in sorted(settings):
        if name.startswith(("dirty_", "http2_")) and settings[name]:
            done.remark(name, "has no counterpart")
    _hooks(done, functions, file)
    return done


def _app(done: Imported, settings: Mapping[str, Any], _home: str) -> None:
    app = settings.get("wsgi_app")
    if app:
        app = str(app).strip()
        done.choose("app", app if ":" in app else f"{app}:application", "wsgi_app")


def _bind(done: Imported, settings: Mapping[str, Any], home: str) -> None:
    binds = settings.get("bind") or []
    secure = bool(settings.get("certfile") and settings.get("keyfile"))
    plain: list[str] = []
    tls: list[str] = []
    for item in [binds] if isinstance(binds, str) else binds:
        for text in str(item).split(","):
            address = _address(text.strip(), home)
            if isinstance(address, Remark):
                done.remarks.append(address)
            elif secure and not address.startswith("unix:"):
                tls.append(address)
            else:
                plain.append(address)
    if plain:
        done.choose("bind", plain[0] if len(plain) == 1 else plain, "bind")
    if secure:
        done.choose("tls_bind", tls or ["127.0.0.1:8000"], "bind, with certfile")


def _address(text: str, home: str) -> str | Remark:
    text = text.removeprefix("tcp://")
    if text.startswith("fd://"):
        return Remark("bind", f"{text}: systemd opens the sockets; name the address instead")
    if text.startswith("unix:"):
        path = re.sub(r"^unix:(//)?", "", text)
        if path.startswith("@"):
            return Remark("bind", f"{text}: there are no abstract sockets; name a path")
        return f"unix:{PurePath(home, path)}"
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, "8000"
    if host == "localhost":
        host = "127.0.0.1"
    if re.search(r"[A-Za-z]", host) and "[" not in host:
        return Remark("bind", f"{text}: write an address in place of the name")
    return f"{host or '0.0.0.0'}:{port}"


def _workers(done: Imported, settings: Mapping[str, Any], _home: str) -> None:
    wanted = str(settings.get("worker_class") or "sync")
    ours = CLASSES.get(wanted)
    if ours is None:
        text = "use worker_class: threads, or write the app for ASGI"
        what = "gevent, eventlet and tornado have no counterpart" if GREEN.match(wanted) else (
            f"{wanted} is gunicorn's own kind of worker"
        )  # fmt: skip
        done.remark("worker_class", f"{what}; {text}")
    elif ours != "sync":
        done.choose("worker_class", ours, "worker_class")
    if ours == "asgi":
        done.chosen.pop("threads", None)
    if not settings.get("max_requests"):
        done.chosen.pop("max_requests_jitter", None)
    if wanted in ("sync", "gthread"):  # what gunicorn does not heed for them or means otherwise
        done.chosen.pop("worker_connections", None)
    if wanted == "sync" and "keepalive" in done.chosen:
        del done.chosen["keepalive"]
        done.remark("keepalive", "gunicorn's sync workers do not heed it; ours do, with 75 s")
    if ours == "threads" or (ours == "sync" and (settings.get("threads") or 1) > 1):
        done.remark("timeout", "counts for each request here, not for the worker's heartbeat")


def _identity(done: Imported, settings: Mapping[str, Any], _home: str) -> None:
    user, group = settings.get("user"), settings.get("group")
    if str(user) in ("root", "0"):
        done.remark("user", "root is left out: the service runs as a user of its own")
    elif user not in (None, ""):
        done.choose("user", str(user), "user")
        if group not in (None, ""):
            done.choose("group", str(group), "group")
    elif group not in (None, ""):
        done.remark("group", "needs a `user` too; without one systemd makes both up")
    umask = settings.get("umask")
    if umask:
        text = umask if isinstance(umask, str) else f"{umask:04o}"
        done.choose("unit", {"Service": {"UMask": text}}, "umask")


def _paths(done: Imported, settings: Mapping[str, Any], _home: str) -> None:
    if folders := settings.get("pythonpath"):
        texts = folders.split(",") if isinstance(folders, str) else list(folders)
        done.choose("pythonpath", [text.strip() for text in texts if text], "pythonpath")
    if lines := settings.get("raw_env"):
        pairs = [
            str(line).partition("=") for line in ([lines] if isinstance(lines, str) else lines)
        ]
        done.choose("env", {name: value for name, _, value in pairs}, "raw_env")
        for name in (name for name, _, value in pairs if value and SECRET.search(name)):
            text = f"{name} may be a secret, and everybody may read the YAML file"
            done.remark("raw_env", f"{text}; docs/hardening.md has better places")


def _logs(done: Imported, settings: Mapping[str, Any], _home: str) -> None:
    if settings.get("accesslog"):
        done.choose("access_log", "all", "accesslog")
    for name in ("accesslog", "errorlog"):
        if settings.get(name) not in (None, "", "-"):
            done.remark(name, f"{settings[name]} is not written: {JOURNAL}")
    if level := settings.get("loglevel"):
        level = str(level).lower()
        if settings.get("accesslog") and level in ("warning", "error", "critical"):
            done.remark("loglevel", f"{level} would leave out the requests of access_log here")
            return
        done.choose("log_level", {"critical": "error"}.get(level, level), "loglevel")


def _proxies(done: Imported, settings: Mapping[str, Any], _home: str) -> None:
    peers = settings.get("forwarded_allow_ips")
    if peers:
        texts = peers.split(",") if isinstance(peers, str) else list(peers)
        believed = [text.strip() for text in texts if text.strip()]
        if "*" not in believed:
            believed.append("unix")
        done.choose("forwarded_allow_ips", believed, "forwarded_allow_ips")
    if settings.get("proxy_protocol") not in (None, False, "off", ""):
        done.choose("proxy_protocol", True, "proxy_protocol")
    headers = {str(name).upper() for name in settings.get("secure_scheme_headers") or {}}
    if headers - DEFAULT_SCHEME_HEADERS:
        listed = ", ".join(sorted(headers - DEFAULT_SCHEME_HEADERS))
        text = "only X-Forwarded-Proto and Forwarded tell the scheme; have the proxy send one"
        done.remark("secure_scheme_headers", f"{listed}: {text}")


def _tls(done: Imported, settings: Mapping[str, Any], home: str) -> None:
    ours = {"certfile": "tls_certificate", "keyfile": "tls_key", "ca_certs": "tls_client_ca"}
    if not settings.get("certfile"):
        return
    if not settings.get("keyfile"):
        text = "it needs a keyfile (the same file, if it has the key too); TLS is left out"
        done.remark("certfile", text)
        return
    required = settings.get("cert_reqs") or 0
    for name, our in ours.items():
        if settings.get(name) and (name != "ca_certs" or required):
            done.choose(our, str(PurePath(home, str(settings[name]))), name)
    if required == CERT_OPTIONAL and "tls_client_ca" in done.chosen:
        done.choose("tls_client_auth", "optional", "cert_reqs")


def _hooks(done: Imported, functions: Mapping[str, int], file: str) -> None:
    """Point `hooks` at the same file, unless one of them takes other arguments than ours."""
    named = [name for name in functions if name in ARGUMENTS]
    wrong = [name for name in named if functions[name] not in (-1, len(ARGUMENTS[name]))]
    for name in wrong:
        wanted = f"({', '.join(ARGUMENTS[name])})"
        done.remark(name, f"takes other arguments; let it take {wanted} and set hooks: {file}")
    if named and not wrong:
        done.choose("hooks", file, "server hooks", f"it defines {', '.join(named)}")
        text = "get prefork-sd's server and worker: docs/hooks.md says what these have"
        done.remark("server hooks", text)
    elif named:
        done.remark("server hooks", "none is called until all of them take the right arguments")
    if "ssl_context" in functions:
        done.remark("ssl_context", TLS)


STEPS: tuple[Callable[[Imported, Mapping[str, Any], str], None], ...] = (
    _app,
    _bind,
    _workers,
    _identity,
    _paths,
    _logs,
    _proxies,
    _tls,
)


def settings_of(names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield gunicorn's own of a file's names, which may be written in capitals."""
    taken = {"chdir", "wsgi_app", "bind", "worker_class", "user", "group", "umask", "pythonpath",
             "raw_env", "accesslog", "errorlog", "loglevel", "forwarded_allow_ips",
             "proxy_protocol", "secure_scheme_headers", "certfile", "keyfile", "ca_certs",
             "cert_reqs", *SAME, *NONE}  # fmt: skip
    for name, value in names.items():
        if name.lower() in taken or name.lower().startswith(("dirty_", "http2_")):
            yield name.lower(), value
