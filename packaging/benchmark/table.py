"""The tables that are printed. Pure."""

from collections.abc import Mapping, Sequence

from benchmark.figures import Outcome, best, medians, ratio, spread
from benchmark.scenarios import Scenario


def grid(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return lines


def table(
    scenario: Scenario, outcomes: Mapping[str, Outcome], *, base: str, ours: frozenset[str]
) -> str:
    """One scenario: the best first, ratios to `base` and to the best that is not `ours`."""
    there = {name: medians(one.rounds) for name, one in outcomes.items() if one}
    keys = {name: figures[scenario.key] for name, figures in there.items()}
    peers = {name: value for name, value in keys.items() if name not in ours}
    rival = best(peers, high=scenario.high)
    columns = scenario.columns
    others = list(dict.fromkeys((base, rival or "best peer")))
    titles = [columns[0].title, "spread", *(f"x {other}" for other in others)]
    rows = [["", *titles, *(column.title for column in columns[1:])]]
    for name in sorted(there, key=lambda name: keys[name], reverse=scenario.high):
        figures = there[name]
        shown = [format(figures[column.figure], column.form) for column in columns]
        apart = spread([one[scenario.key] for one in outcomes[name].rounds])
        ratios = [_times(ratio(keys[name], keys.get(other))) for other in others]
        rows.append([name, shown[0], f"{apart:.0%}", *ratios, *shown[1:]])
    lines = [f"{scenario.name}: {scenario.title}", *grid(rows)]
    lines += [f"missing: {name}: {one.missing}" for name, one in outcomes.items() if not one]
    return "\n".join(lines)


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
