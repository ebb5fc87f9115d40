"""A worker to talk to, of both kinds."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

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
