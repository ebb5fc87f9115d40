"""One measurement: a server under load, or left alone, becomes figures."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmark.figures import Figures
from benchmark.processes import BenchError, Running, free_port, idle_connections, still_open
from benchmark.scenarios import Kind, Scenario, ideal_rate
from benchmark.servers import APPS, HERE, ROOT, Server

MARGIN = 30.0  # seconds that wrk may take longer than it was told
RESULT = re.compile(
    r"^RESULT requests=(\d+) usec=(\d+) p50=(\d+) p99=(\d+) status=(\d+) broken=(\d+)$", re.M
)
LONGEST = 120  # seconds for all the requests after which memory is looked at
SETTLE = 1.0  # seconds for a server to come to rest before it counts as idle


@dataclass(frozen=True, slots=True)
class Cores:
    """Which processor the servers run on, and which one the load comes from."""

    server: int
    load: int


def cores() -> Cores:
    """The first and the last processor that we may use."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[-1])


def environ() -> dict[str, str]:
    """The environment of every server: nothing of systemd's, nothing that tunes one of them."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": f"{ROOT}:{APPS}",
    }


def start(server: Server, scenario: Scenario, at: Cores, stack: ExitStack) -> Running:
    """Start a server; it ends with the stack."""
    port = free_port()
    command = server.command(server.job(scenario, port))
    return stack.enter_context(Running(command, port, environ(), at.server))


def parse(output: str) -> dict[str, int]:
    """The numbers of load.lua's line in the output of wrk; raises BenchError without one."""
    match = RESULT.search(output)
    if not match:
        raise BenchError(f"wrk said nothing: {output.strip()[-200:]}")
    names = ("requests", "usec", "p50", "p99", "status", "broken")
    return dict(zip(names, map(int, match.groups()), strict=True))


def wrk(port: int, scenario: Scenario, seconds: int, at: Cores) -> dict[str, int]:
    """Load a server; return what `parse` says."""
    options = f"-t 1 -c {scenario.connections} -d {seconds}s --timeout 5s -s {HERE / 'load.lua'}"
    command = ["taskset", "-c", str(at.load), "wrk", *options.split()]
    command += [f"http://127.0.0.1:{port}", "--", scenario.request]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds + MARGIN,
        )
    except subprocess.TimeoutExpired:
        raise BenchError("wrk did not end") from None
    return parse(done.stdout)


def under_load(running: Running, scenario: Scenario, seconds: int, at: Cores) -> Figures:
    """Rate, latency and cost of a request."""
    with idle_connections(running.port, scenario.idle) as idle:
        before = sum(running.cpu())
        result = wrk(running.port, scenario, seconds, at)
        used = sum(running.cpu()) - before
        held = still_open(idle)
    if not result["requests"]:
        raise BenchError("not one request was answered")
    rate = result["requests"] / result["usec"] * 1e6
    figures = {
        "rate": rate,
        "cpu": used / result["requests"] * 1e6,
        "busy": used / result["usec"] * 1e8,
        "p50": result["p50"] / 1e3,
        "p99": result["p99"] / 1e3,
        "failed": result["status"] + result["broken"],
    }
    if scenario.idle:
        figures["held"] = held
    if scenario.threads:
        figures["ideal"] = 100 * rate / ideal_rate(scenario)
    return figures


def measure_all(
    servers: Sequence[Server], scenario: Scenario, seconds: int, at: Cores
) -> dict[str, Figures | str]:
    """One round of a scenario: start all the servers, measure one after the other, end them.

    Gives the figures of each, or why there are none.
    """
    found: dict[str, Figures | str] = {}
    with ExitStack() as stack:
        ready: dict[Server, Running] = {}
        started = {
            server: start(server, scenario, at, stack)
            for server in servers
            if not server.missing(scenario)
        }
        for server in servers:
            try:
                if server not in started:
                    raise BenchError(server.missing(scenario))
                started[server].wait_ready()
                ready[server] = started[server]
            except BenchError as error:
                found[server.name] = str(error)
        if scenario.kind is Kind.WAKEUPS:
            found |= wakeups(ready, scenario, seconds)
            return found
        for server, running in ready.items():
            try:
                if scenario.kind is Kind.MEMORY:
                    found[server.name] = memory(server, running, scenario, at)
                else:
                    found[server.name] = under_load(running, scenario, seconds, at)
            except BenchError as error:
                found[server.name] = str(error)
    return found


def memory(server: Server, running: Running, scenario: Scenario, at: Cores) -> Figures:
    """What the tree holds once every worker has served, and as often as it should."""
    answered = 0
    for _ in range(LONGEST):
        answered += wrk(running.port, scenario, 1, at)["requests"]
        if answered > scenario.requests:
            break
    else:
        raise BenchError(f"answered {answered} requests in {LONGEST} s")
    total, workers = running.pss(), server.job(scenario, 0).workers
    return {
        "pss": total,
        "workers": workers,
        "each": total / workers,
        "processes": len(running.tree()),
    }


def wakeups(ready: dict[Server, Running], scenario: Scenario, seconds: int) -> dict[str, Figures]:
    """All servers at once, as none does anything. At least 5 seconds, as some tick slowly."""
    time.sleep(SETTLE)
    begun, before = time.monotonic(), {one: running.switches() for one, running in ready.items()}
    time.sleep(max(5, seconds))
    elapsed = time.monotonic() - begun
    return {
        server.name: {
            "switches": (running.switches() - before[server]) / elapsed,
            "workers": server.job(scenario, 0).workers,
        }
        for server, running in ready.items()
    }
