"""The configuration: every setting declared once, and frozen. `building` makes one of values."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prefork_sd.settings import (
    BYTES,
    ENV,
    FLAG,
    PATH,
    SECONDS,
    TEXT,
    TEXTS,
    WHOLE,
    Setting,
    declared,
    setting,
)
from prefork_sd.values import (
    ACCESS_LOG,
    ACCOUNT,
    APP,
    BIND,
    FORWARDED,
    HEADER,
    HOOKS,
    MODE,
    PEERS,
    PREFIX,
    TLS_FILE,
    UNIT,
    WORKER_CLASS,
    WORKERS,
)

LOG_LEVELS = ("debug", "info", "warning", "error")
ACCESS_LOGS = ("off", "errors", "all")
CLIENT_AUTHS = ("required", "optional")
FOLDERS = ("/etc/prefork-sd", "/run/prefork-sd", "/usr/lib/prefork-sd/services")  # /etc wins
# the old generation, the new one and its surge, and those that drain all have a slot
MOST_WORKERS = 512
DEFAULT_BIND = ("127.0.0.1:8000",)  # without systemd and without a `bind`


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings in their typed form. Times are seconds, sizes are bytes, 0 mostly means off."""

    # The app
    app: str = setting("", APP, help="the WSGI or ASGI callable", example="shop.wsgi:application")
    directory: str = setting("", PATH, help="where the app lives; workers run and import here")
    pythonpath: tuple[str, ...] = setting((), TEXTS, help="more folders to import from")
    venv: str = setting(
        "", PATH, help="the virtual environment whose packages the app uses", example="venv"
    )
    env: Mapping[str, str] = setting({}, ENV, help="environment variables for the app")
    env_file: str = setting(
        "", PATH, help="a file of KEY=VALUE lines; `env` wins over it", example="/etc/shop/app.env"
    )
    hooks: str | Mapping[str, str] = setting(
        {}, HOOKS, help="server hooks as module:function, or a Python file that defines them"
    )

    # Sockets
    bind: tuple[str, ...] = setting(
        (),
        BIND,
        help="where to listen; empty: nowhere with `tls_bind`, or else at "
        "/run/prefork-sd/NAME.sock, or 127.0.0.1:8000 without systemd",
        example=["127.0.0.1:8000", "/run/shop.sock"],
    )
    status_bind: tuple[str, ...] = setting(
        (),
        BIND,
        help="where /metrics and /healthz are, for monitoring; empty: nowhere",
        example="127.0.0.1:9100",
    )
    backlog: int = setting(
        2048, WHOLE, help="connections that may wait to be accepted", at_least=1, at_most=65535
    )
    socket_mode: str = setting("0660", MODE, help="the file mode of unix sockets")
    socket_user: str = setting("", ACCOUNT, help="who owns unix sockets; empty: root")
    socket_group: str = setting(
        "www-data", ACCOUNT, help="the group of unix sockets; the proxy's", example="www-data"
    )

    # TLS
    tls_bind: tuple[str, ...] = setting(
        (), BIND, help="where to listen for TLS (https)", example=["0.0.0.0:443", "[::]:443"]
    )
    tls_certificate: str = setting(
        "",
        TLS_FILE,
        help="the server's certificate and what leads to its root, in PEM: a file, or "
        "credential:NAME; a reload takes a renewed one",
        example="/etc/ssl/certs/shop.pem",
    )
    tls_key: str = setting(
        "",
        TLS_FILE,
        help="the certificate's private key, without a passphrase; a file that only root may "
        "read comes as a credential, which systemd before 260 renews only at a restart",
        example="/etc/ssl/private/shop.key",
    )
    tls_client_ca: str = setting(
        "",
        TLS_FILE,
        help="the authorities whose client certificates are accepted; empty: none is asked for",
        example="/etc/ssl/certs/staff-ca.pem",
    )
    tls_client_auth: str = setting(
        "required",
        TEXT,
        help="whether a client must show a certificate where `tls_client_ca` is given",
        choices=CLIENT_AUTHS,
    )

    # Proxies in front
    forwarded_allow_ips: tuple[str, ...] = setting(
        ("127.0.0.1", "::1", "unix"),
        PEERS,
        help="proxies that are believed when they speak for a client; unix: any on a unix socket",
        example=["10.0.0.0/8", "unix"],
    )
    forwarded_headers: tuple[str, ...] = setting(
        ("x-forwarded-for", "x-forwarded-proto"),
        FORWARDED,
        help="what they may say; name only what your proxy sets or removes itself",
        example=["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"],
    )
    proxy_protocol: bool = setting(
        "no", FLAG, help="every connection begins with a PROXY header, version 1 or 2"
    )
    script_name: str = setting("", PREFIX, help="where the app is mounted", example="/shop")

    # Workers
    workers: int = setting(
        "auto",
        WORKERS,
        help="worker processes kept alive; auto: 2 for each CPU, and one",
        at_least=1,
        at_most=MOST_WORKERS,
    )
    worker_class: str = setting("auto", WORKER_CLASS, help="how a worker serves requests")
    threads: int = setting(
        1, WHOLE, help="requests that one worker serves at a time", at_least=1, at_most=256
    )
    worker_connections: int = setting(
        10000, WHOLE, help="connections that one worker holds", at_least=1, at_most=1000000
    )
    max_requests: int = setting(
        0, WHOLE, help="requests after which a worker is replaced; 0: never", at_least=0
    )
    max_requests_jitter: int = setting(
        0, WHOLE, help="up to so many more, at random, that they do not all go at once", at_least=0
    )
    max_rss: int = setting(
        0, BYTES, help="resident memory past which a worker is replaced; 0: any", at_least=0
    )
    worker_memory_max: int = setting(
        0, BYTES, help="memory past which the kernel kills a worker; 0: no bound", at_least=0
    )
    max_lifetime: float = setting(
        0,
        SECONDS,
        help="age at which a worker is replaced, more or less; 0: none",
        at_least=0,
    )
    preload_app: bool = setting(
        "no", FLAG, help="import the app once, before workers are forked; saves memory"
    )
    refork_after: int = setting(
        0,
        WHOLE,
        help="requests after which the workers are forked anew, from one that has served so many; "
        "0: never",
        at_least=0,
    )
    surge: int = setting(
        0,
        WHOLE,
        help="workers more than `workers` during a reload; 0: a quarter of them",
        at_least=0,
        at_most=512,
    )

    # Deadlines
    timeout: float = setting(
        30, SECONDS, help="a request that takes longer costs its worker; 0: no limit", at_least=0
    )
    boot_timeout: float = setting(
        60, SECONDS, help="how long a worker may take to import the app", at_least=1
    )
    graceful_timeout: float = setting(
        30, SECONDS, help="how long requests may take to finish at a stop or reload", at_least=0
    )
    keepalive: float = setting(
        75, SECONDS, help="how long an idle client is kept; 0: close after each", at_least=0
    )
    watchdog: float = setting(
        20, SECONDS, help="silence after which systemd restarts the service; 0: off", at_least=0
    )

    # The service
    proc_name: str = setting("", TEXT, help="the name in the process titles; empty: NAME")
    pidfile: str = setting("", PATH, help="where to write the arbiter's pid; empty: nowhere")
    user: str = setting(
        "", ACCOUNT, help="who the service runs as; empty: systemd's DynamicUser", example="shop"
    )
    group: str = setting("", ACCOUNT, help="with which group; empty: the user's", example="shop")
    enabled: bool = setting("yes", FLAG, help="start with the system")
    control: str = setting(
        "", PATH, help="the control socket; empty: control in $RUNTIME_DIRECTORY"
    )
    unit: Mapping[str, Mapping[str, tuple[str, ...]]] = setting(
        {},
        UNIT,
        help="directives for the generated units, by section",
        example={"Service": {"MemoryMax": "1G"}},
    )

    # Logs
    log_level: str = setting(
        "info", TEXT, help="the least record worth writing", choices=LOG_LEVELS
    )
    access_log: str = setting(
        "errors", ACCESS_LOG, help="which requests are recorded", choices=ACCESS_LOGS
    )
    slow_request: float = setting(
        10,
        SECONDS,
        help="a longer request is recorded unless `access_log` is off; 0: never",
        at_least=0,
    )

    request_id_header: str = setting(
        "",
        HEADER,
        help="the response header that tells a client the PREFORK_SD_REQUEST_ID of the records; "
        "empty: none",
        example="X-Request-ID",
    )

    # Limits of HTTP
    limit_request_line: int = setting(
        8190, BYTES, help="the longest request line", at_least=64, at_most=65536
    )
    limit_request_fields: int = setting(
        100, WHOLE, help="the most header fields", at_least=1, at_most=32768
    )
    limit_request_field_size: int = setting(
        8190, BYTES, help="the longest header field", at_least=64, at_most=65536
    )
    limit_request_head: int = setting(
        "64K", BYTES, help="the largest request head", at_least=256, at_most=1 << 20
    )
    limit_request_body: int = setting(
        "1G", BYTES, help="the largest request body; 0: no limit", at_least=0
    )
    head_timeout: float = setting(15, SECONDS, help="how long a request head may take", at_least=0)
    body_timeout: float = setting(
        30, SECONDS, help="silence of a client that sends a body", at_least=0
    )
    send_timeout: float = setting(
        60, SECONDS, help="silence of a client that reads a response", at_least=0
    )
    body_buffer: int = setting(
        "256K", BYTES, help="larger request bodies are kept on disk", at_least=0, at_most=1 << 30
    )
    response_buffer: int = setting(
        "1M",
        BYTES,
        help="response kept in memory for a client that reads slowly",
        at_least=0,
        at_most=1 << 30,
    )

    def surge_for(self, workers: int) -> int:
        """How many workers more than `workers` a reload may have for a while; at least one."""
        return self.surge or max(1, math.ceil(workers / 4))

    def written(self) -> Iterator[str]:
        """Yield a line for each setting, for logs; of what may be secret only the names."""
        for each in describe():
            value = getattr(self, each.name)
            yield f"{each.name}: {sorted(value) if each.kind.secret else value}"


SETTINGS = {each.name: each for each in declared(Config)}
AS_WRITTEN = frozenset(each.name for each in SETTINGS.values() if each.kind.as_written)


def describe() -> tuple[Setting, ...]:
    """All settings in their order, for --help, the documents and the manual page."""
    return tuple(SETTINGS.values())


def schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of a service's YAML file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "prefork-sd service",
        "type": "object",
        "properties": {
            each.name: {
                **each.kind.schema(each),
                "description": each.help,
                "default": list(each.default) if each.default == () else each.default,
            }
            for each in describe()
        },
        "required": ["app"],
        "additionalProperties": False,
    }
