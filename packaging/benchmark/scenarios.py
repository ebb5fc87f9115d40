"""What is measured: each scenario's app, its load and the figures that are shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

WAIT = 0.010  # seconds that the app `plain:wait` waits


class Kind(Enum):
    """How a scenario is measured."""

    LOAD = "load"
    MEMORY = "memory"
    WAKEUPS = "wakeups"


@dataclass(frozen=True, slots=True)
class Column:
    """One figure in a table: its name among the figures, its title and its format."""

    figure: str
    title: str
    form: str


RATE = Column("rate", "req/s", ",.0f")
CPU = Column("cpu", "CPU us/req", ",.1f")
P50 = Column("p50", "p50 ms", ".2f")
P99 = Column("p99", "p99 ms", ".2f")
BUSY = Column("busy", "busy %", ".0f")  # of its processor; others had the rest, or nobody
FAILED = Column("failed", "failed", ",.0f")
HELD = (
    Column("pss", "PSS MiB", ".1f"),
    Column("workers", "workers", ".0f"),
    Column("each", "MiB a worker", ".1f"),
    Column("processes", "processes", ".0f"),
)
LOADED = (RATE, CPU, BUSY, P50, P99, FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing to measure. `key` is the figure that servers are compared by."""

    name: str
    title: str
    app: str = "plain:hello"
    request: str = "bare"  # the kind, by its name in load.lua
    connections: int = 50
    idle: int = 0  # connections that stay open beside the load
    threads: int = 0  # 0: as many as each server usually has
    workers: int = 1
    preload: bool = False  # whether the app is imported before the workers are forked
    requests: int = 0  # at least, before memory is looked at
    kind: Kind = Kind.LOAD
    key: str = "rate"
    high: bool = True  # whether a high key is a good one
    columns: tuple[Column, ...] = LOADED


SCENARIOS = (
    Scenario(name="bare", title="hello, keep-alive, bare headers"),
    Scenario(
        name="browser",
        title="hello, keep-alive, 12 browser-like headers (700 bytes)",
        request="browser",
    ),
    Scenario(
        name="varied",
        title="hello, keep-alive, browser-like headers, another target each time",
        request="varied",
    ),
    Scenario(name="close", title="hello, one connection a request", request="close"),
    Scenario(
        name="browser-close",
        title="hello, browser-like headers, one connection a request",
        request="browser-close",
    ),
    Scenario(name="json", title="JSON, 10 KiB", app="plain:rows"),
    Scenario(name="post", title="POST, 64 KiB", app="plain:upload", request="post"),
    Scenario(name="flask", title="Flask route and jsonify", app="route:app"),
    Scenario(name="cpu", title="1 ms of CPU", app="plain:compute"),
    Scenario(
        name="wait",
        title="10 ms of waiting, 16 threads, 32 connections",
        app="plain:wait",
        connections=32,
        threads=16,
        columns=(RATE, Column("ideal", "of ideal %", ".1f"), CPU, BUSY, P50, P99, FAILED),
    ),
    Scenario(
        name="wait80",
        title="10 ms of waiting, 16 threads, 13 connections: 80 percent of the load",
        app="plain:wait",
        connections=13,
        threads=16,
        key="p99",
        high=False,
        columns=(P99, P50, RATE, Column("ideal", "of ideal %", ".1f"), CPU, BUSY, FAILED),
    ),
    Scenario(
        name="memory",
        title="memory of a hello service, 4 workers",
        workers=4,
        kind=Kind.MEMORY,
        key="pss",
        high=False,
        columns=HELD,
    ),
    Scenario(
        name="django",
        title="memory of a Django site, 8 workers, after 10,000 requests",
        app="shop:application",
        workers=8,
        requests=10_000,
        kind=Kind.MEMORY,
        key="pss",
        high=False,
        columns=HELD,
    ),
    Scenario(
        name="preload",
        title="memory of a preloaded Django site, 8 workers, after 10,000 requests",
        app="shop:application",
        workers=8,
        preload=True,
        requests=10_000,
        kind=Kind.MEMORY,
        key="pss",
        high=False,
        columns=HELD,
    ),
    Scenario(
        name="wakeups",
        title="wake-ups while idle, 4 workers (voluntary context switches)",
        workers=4,
        kind=Kind.WAKEUPS,
        key="switches",
        high=False,
        columns=(Column("switches", "a second", ".2f"), Column("workers", "workers", ".0f")),
    ),
    Scenario(
        name="idle",
        title="hello, keep-alive, beside 1000 idle connections",
        idle=1000,
        columns=(RATE, Column("held", "idle held", ",.0f"), CPU, BUSY, P50, P99, FAILED),
    ),
)
BY_NAME = {one.name: one for one in SCENARIOS}


def ideal_rate(scenario: Scenario) -> float:
    """Requests a second of an app that only waits, if its server cost nothing."""
    return min(scenario.threads, scenario.connections) / WAIT


def pick(names: Sequence[str]) -> list[Scenario]:
    """Those named, in their usual order; all if none is."""
    return [one for one in SCENARIOS if not names or one.name in names]
