"""The environ of a request: PEP 3333, "environ Variables"."""

import io
import sys
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from prefork_sd import http1
from prefork_sd.forwarded import HEADERS
from prefork_sd.wsgi.files import FileWrapper

Environ = dict[str, Any]

TELLING = frozenset(HEADERS.values())

# what each request has of its own
OWN = (
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "wsgi.input",
    "wsgi.early_hints",
    "PREFORK_SD_REQUEST_ID",
)


def base_environ(
    *,
    server_name: str,
    server_port: str,
    scheme: str,
    script_name: str,
    multithread: bool,
    multiprocess: bool,
) -> Environ:
    """What does not change from one request of a listener to the next."""
    return {
        "SERVER_NAME": server_name,
        "SERVER_PORT": server_port,
        "SERVER_SOFTWARE": "prefork-sd",
        "SCRIPT_NAME": script_name,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
        **dict.fromkeys(OWN),
        **({"HTTPS": "on"} if scheme == "https" else {}),
    }


class Template:
    """What a head makes of an environ: all but what `OWN` names, for which there is a place."""

    __slots__ = ("base", "environ", "head", "told")

    def __init__(self, base: Environ, head: http1.Head) -> None:
        self.base = base
        self.head = head
        self.environ = _what_head_tells(base, head)
        self.told = not TELLING.isdisjoint(head.environ)  # by a proxy, of a client

    @classmethod
    def of(cls, base: Environ, head: http1.Head) -> "Template":
        """The one of that head, made once if it repeats."""
        kept: Template | None = head.kept
        if kept is not None and kept.base is base:
            return kept
        template = cls(base, head)
        if head.repeats:
            head.kept = template
        return template


def make_environ(
    base: Environ, remote: tuple[str, str], head: http1.Head, body: IO[bytes]
) -> Environ:
    """The environ of one request: PEP 3333, "environ Variables". `remote`: address and port."""
    environ = Template.of(base, head).environ.copy()
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = remote
    environ["wsgi.input"] = body
    if head.chunked:  # its length without the coding: RFC 3875, 4.1.2
        environ["CONTENT_LENGTH"] = str(body.seek(0, io.SEEK_END))
        body.seek(0)
    return environ


def _what_head_tells(base: Environ, head: http1.Head) -> Environ:
    path = head.path
    environ = {**base, **head.environ}
    environ["REQUEST_METHOD"] = head.method
    environ["SERVER_PROTOCOL"] = head.version
    environ["RAW_URI"] = environ["REQUEST_URI"] = head.target
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    if (mount := base["SCRIPT_NAME"]) and f"{path}/".startswith(f"{mount}/"):
        path = path[len(mount) :]
    environ["PATH_INFO"] = path
    environ["QUERY_STRING"] = head.query
    return environ
