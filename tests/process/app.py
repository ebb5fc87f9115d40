"""The app under test. A test deploys it as app.py, with another VERSION for another release."""

import ctypes
import json
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

VERSION = "1"
Environ = dict[str, Any]


def knock(what: str) -> str:
    """Tell the test that we got here, and wait until it lets us go with a word."""
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(os.environ["GATE"])
        door.sendall(f"{os.getpid()} {what}\n".encode())
        return door.recv(4096).decode()


def index(environ: Environ) -> bytes:
    return f"{VERSION} {os.getpid()}".encode()


def wait(environ: Environ) -> bytes:
    knock("request")
    return index(environ)


def large(environ: Environ) -> bytes:
    knock("request")
    return b"x" * 3_000_000


def environment(environ: Environ) -> bytes:
    return json.dumps(dict(os.environ)).encode()


def spin(environ: Environ) -> bytes:
    while True:
        pass


def stuck(library: ctypes.CDLL) -> bytes:
    """In C, where no signal gets a caller out."""
    mutex = ctypes.create_string_buffer(128)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
    return b"never"


def pause(environ: Environ) -> bytes:
    """In C, while other threads of Python may run."""
    return stuck(ctypes.CDLL(None))


def freeze(environ: Environ) -> bytes:
    """In C, with the lock of the interpreter in hand."""
    return stuck(ctypes.PyDLL(None))


def raising(environ: Environ) -> bytes:
    raise LookupError("no such page")


PAGES: dict[str, Callable[[Environ], bytes]] = {
    "/wait": wait,
    "/large": large,
    "/environment": environment,
    "/spin": spin,
    "/pause": pause,
    "/freeze": freeze,
    "/raise": raising,
}


def application(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
    body = PAGES.get(environ["PATH_INFO"], index)(environ)
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
