"""The small apps that every server is measured with."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

Start = Callable[[str, list[tuple[str, str]]], object]
TEXT = "text/plain; charset=utf-8"

ROWS = [{"id": number, "name": f"row {number}", "tags": ["a", "b"]} for number in range(201)]


def _answer(start_response: Start, body: bytes, kind: str = TEXT) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def hello(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    return _answer(start_response, b"Hello, world!\n")


def rows(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """About 10 KiB of JSON, made for each request."""
    return _answer(start_response, json.dumps(ROWS).encode(), "application/json")


def upload(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Read the body, and say how long it was."""
    size = len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    return _answer(start_response, b"%d\n" % size)


def compute(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Use 1 ms of CPU."""
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass
    return _answer(start_response, b"done\n")


def wait(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Wait for 10 ms, as for a database."""
    time.sleep(0.010)
    return _answer(start_response, b"done\n")
