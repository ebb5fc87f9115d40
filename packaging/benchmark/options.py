"""The command line of the benchmark."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import profile, scenarios, servers


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. `seconds` is one measurement of one server."""

    only: list[scenarios.Scenario]
    servers: list[servers.Server]
    rounds: int
    seconds: int
    json: Path | None
    profile: bool
    profiled: scenarios.Scenario


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line; a mistake in it ends the program (argparse)."""
    parser = argparse.ArgumentParser(
        prog="packaging/bench",
        description="Measure prefork-sd, as in this checkout, beside its peers. Each round measures"
        " every server in every scenario, pinned to one processor, with the load on another. Only"
        " ratios of one run say something.",
    )
    names = list(scenarios.BY_NAME)
    parser.add_argument(
        "--only", nargs="+", default=[], choices=names, metavar="SCENARIO", help=", ".join(names)
    )
    names = list(servers.BY_NAME)
    parser.add_argument(
        "--servers", nargs="+", default=[], choices=names, metavar="SERVER", help=", ".join(names)
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", help="[3; 1 with --quick]")
    parser.add_argument(
        "--seconds", type=_positive, metavar="N", help="of each measurement [3; 1 with --quick]"
    )
    parser.add_argument("--quick", action="store_true", help="one round of one second each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="instead: where the time of a hello request goes in prefork-sd, in the one scenario"
        f" that --only names [{profile.USUAL.name}]",
    )
    given = parser.parse_args(argv)
    only = scenarios.pick(given.only)
    if given.profile and given.only and (len(only) > 1 or only[0].app != profile.USUAL.app):
        parser.error("argument --profile: --only must name one scenario of the hello app")
    usual = 1 if given.quick else 3
    return Options(
        only=only,
        servers=servers.pick(given.servers),
        rounds=given.rounds or usual,
        seconds=given.seconds or usual,
        json=given.json,
        profile=given.profile,
        profiled=only[0] if given.only else profile.USUAL,
    )
