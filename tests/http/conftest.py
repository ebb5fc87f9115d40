"""A worker to talk to, of both kinds."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Pair, make
from tests.http.secure import SECURE
from tests.http.serving import KINDS, App, Gate, Served, Wire

Serve = Callable[..., Served]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def wire(stack: ExitStack) -> Wire:
    wire = Wire()
    stack.callback(wire.close)
    return wire


@pytest.fixture
def gate(stack: ExitStack) -> Gate:
    gate = Gate()
    stack.callback(gate.close)
    return gate


def start(stack: ExitStack, kind: str, app: App, **settings: Any) -> Served:
    served = Served(app, settings.pop("worker", KINDS[kind]), **settings)
    stack.callback(served.close)
    return served


@pytest.fixture(params=list(KINDS))
def serve(stack: ExitStack, request: pytest.FixtureRequest) -> Serve:
    """`serve(app, setting=value, ...)`: a worker of each kind in turn."""
    return partial(start, stack, request.param)


@pytest.fixture
def serve_sync(stack: ExitStack) -> Serve:
    return partial(start, stack, "sync")


@pytest.fixture
def serve_threads(stack: ExitStack) -> Serve:
    return partial(start, stack, "threads")


# ---- TLS


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="session")
def pair(folder: Path) -> Pair:
    """The server's certificate and key."""
    return make(folder, "server")


@pytest.fixture(scope="session")
def authority(folder: Path) -> Pair:
    """Who signs the certificates of clients."""
    return make(folder, "staff")


@pytest.fixture
def trusting(pair: Pair) -> ssl.SSLContext:
    """Of a client that trusts the server."""
    return pair.client()


@pytest.fixture(params=list(SECURE))
def serve_tls(stack: ExitStack, pair: Pair, request: pytest.FixtureRequest) -> Serve:
    """As `serve`, behind TLS."""
    worker = SECURE[request.param]
    return partial(
        start, stack, request.param, worker=worker, tls_bind="127.0.0.1:1", **pair.settings()
    )
