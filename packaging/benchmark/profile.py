"""Where the time of a hello request goes in prefork-sd: CPU, system calls, functions, lines."""

import http.client
import json
import linecache
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark import scenarios, servers
from benchmark.measure import Cores, start, wrk
from benchmark.processes import BenchError, Running
from benchmark.servers import ROOT
from benchmark.table import grid

USUAL = scenarios.BY_NAME["varied"]
SHOWN = 25  # functions, and lines
RARE = 0.005  # calls a request that are not worth a line
SAMPLING = 10  # seconds at least: many kernels take only a hundred samples in one
STRACE = 10.0  # seconds that strace has to attach, and to say its numbers


@dataclass(frozen=True, slots=True)
class Sample:
    """How often a line was the one being run."""

    file: str
    function: str
    line: int
    count: int


def report(hello: scenarios.Scenario, seconds: int, at: Cores) -> str:
    """Everything there is to say about a hello scenario, from three loads. Raises BenchError."""
    sampled = replace(hello, app="sampled:application")
    with ExitStack() as stack:
        running = _start(hello, at, stack)
        user, system = running.cpu()
        requests = wrk(running.port, hello, seconds, at)["requests"]
        after_user, after_system = running.cpu()
        calls = system_calls(hello, running, at)
    with ExitStack() as stack:
        running = _start(sampled, at, stack)
        wrk(running.port, sampled, max(SAMPLING, seconds), at)
        samples = fetch(running.port)
    per = 1e6 / requests
    user, system = (after_user - user) * per, (after_system - system) * per
    parts = [
        f"\n{hello.title}: {requests / seconds:,.0f} req/s",
        f"CPU of a request: {user + system:.1f} us, {user:.1f} of them ours, {system:.1f} the"
        " kernel's\n",
        *calls,
        "",
        *by_function(samples, user + system),
        "",
        *by_line(samples, user + system),
    ]
    return "\n".join(parts)


def _start(scenario: scenarios.Scenario, at: Cores, stack: ExitStack) -> Running:
    running = start(servers.BY_NAME["prefork-sd"], scenario, at, stack)
    running.wait_ready()
    return running


def fetch(port: int) -> list[Sample]:
    """What the sampling app has seen."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STRACE)
    try:
        connection.request("GET", "/samples")
        return [Sample(*one) for one in json.loads(connection.getresponse().read())]
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BenchError(f"no samples: {error}") from error
    finally:
        connection.close()


def system_calls(hello: scenarios.Scenario, running: Running, at: Cores) -> list[str]:
    """How many calls of each kind a request takes, counted by strace(1) if there is one."""
    if not (strace := shutil.which("strace")):
        return ["system calls: not counted, there is no strace"]
    workers = [
        option for pid in running.tree() if pid != running.pid for option in ("-p", str(pid))
    ]
    counting = subprocess.Popen(
        [strace, "-f", "-c", *workers],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert counting.stderr
    try:
        if "attached" not in counting.stderr.readline():
            return ["system calls: not counted, strace may not attach"]
        requests = wrk(running.port, hello, 1, at)["requests"]
        counting.send_signal(signal.SIGINT)
        _, text = counting.communicate(timeout=STRACE)
    finally:
        counting.kill()
        counting.wait()
    rows = [
        [name, f"{count / requests:.2f}"]
        for name, count in parse_strace(text).most_common()
        if count / requests >= RARE
    ]
    return grid([["system call", "a request"], *rows])


def parse_strace(text: str) -> Counter[str]:
    """Calls by name in the table that `strace -c` prints."""
    calls: Counter[str] = Counter()
    for line in text.splitlines():
        fields = line.split()
        if len(fields) in (5, 6) and fields[3].isdecimal() and fields[-1] != "total":
            calls[fields[-1]] = int(fields[3])
    return calls


def by_function(samples: Sequence[Sample], cost: float) -> list[str]:
    """The functions by their own share of the cost (microseconds of a request)."""
    counts: Counter[str] = Counter()
    for one in samples:
        counts[f"{_short(one.file)}: {one.function}"] += one.count
    return _ranking("function", counts, cost)


def by_line(samples: Sequence[Sample], cost: float) -> list[str]:
    """The lines by their share of the cost (microseconds of a request)."""
    counts: Counter[str] = Counter()
    for one in samples:
        text = linecache.getline(one.file, one.line).strip()
        counts[f"{_short(one.file)}:{one.line}: {text}"] += one.count
    return _ranking("line", counts, cost)


def _ranking(title: str, counts: Counter[str], cost: float) -> list[str]:
    total = sum(counts.values()) or 1
    rows = [
        [name[:90], f"{count / total * cost:.2f}", f"{count / total:.1%}"]
        for name, count in counts.most_common(SHOWN)
    ]
    return grid([[f"{title} ({total} samples)", "us", "part"], *rows])


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
