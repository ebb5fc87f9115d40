"""A whole run: rounds of scenarios of servers, then the tables."""

import json
import os
import platform
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmark import profile
from benchmark.figures import Figures, Outcome
from benchmark.measure import Cores, cores, measure_all
from benchmark.options import Options, parse
from benchmark.processes import BenchError
from benchmark.servers import BASE, OURS
from benchmark.table import table

Outcomes = dict[str, dict[str, Outcome]]  # by scenario, by server


def main() -> int:
    options = parse()
    allow_many_files()
    at = cores()
    print(about(at), flush=True)
    if options.profile:
        try:
            print(profile.report(options.profiled, options.seconds, at))
        except BenchError as error:
            print(f"no profile: {error}", file=sys.stderr)
            return 1
        return 0
    outcomes = run(options, at)
    for scenario in options.only:
        print(f"\n{table(scenario, outcomes[scenario.name], base=BASE, ours=OURS)}")
    if options.json:
        options.json.write_text(json.dumps(report(options, at, outcomes), indent=1) + "\n")
    return 0


def run(options: Options, at: Cores) -> Outcomes:
    """Every round; a server that fails once is missing from that scenario, with the reason."""
    figures: dict[tuple[str, str], list[Figures]] = {}
    missing: dict[tuple[str, str], str] = {}
    for number in range(options.rounds):
        for scenario in options.only:
            say(f"round {number + 1} of {options.rounds}: {scenario.name}")
            servers = [one for one in options.servers if (scenario.name, one.name) not in missing]
            found = measure_all(servers, scenario, options.seconds, at)
            for name, result in found.items():
                if isinstance(result, str):
                    missing[scenario.name, name] = result
                else:
                    figures.setdefault((scenario.name, name), []).append(result)
    return {
        scenario.name: {
            server.name: Outcome(
                figures.get((scenario.name, server.name), []),
                missing.get((scenario.name, server.name), ""),
            )
            for server in options.servers
        }
        for scenario in options.only
    }


def allow_many_files() -> None:
    """The idle connections need a descriptor each, here and in the servers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def about(at: Cores) -> str:
    """What this was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")
    text = f"CPython {platform.python_version()}, Linux {platform.release()}"
    text += f", {os.cpu_count()} x {model}"
    text += f"\nservers on processor {at.server}, load on processor {at.load}"
    if at.server == at.load:
        text += ": the same one, so the load slows the servers down"
    return text


def report(options: Options, at: Cores, outcomes: Outcomes) -> Mapping[str, object]:
    """Everything, for --json."""
    return {
        "machine": about(at).splitlines(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": {one.name: one.version() for one in options.servers},
        "scenarios": {
            name: {
                server: {"rounds": list(map(dict, one.rounds)), "missing": one.missing}
                for server, one in by_server.items()
            }
            for name, by_server in outcomes.items()
        },
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
