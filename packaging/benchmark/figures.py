"""Numbers of many rounds become the few that are shown. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Figures = Mapping[str, float]  # what one server did in one round, by name


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one server did in all the rounds of a scenario, or why it did not."""

    rounds: Sequence[Figures] = ()
    missing: str = ""

    def __bool__(self) -> bool:
        return bool(self.rounds) and not self.missing


def medians(rounds: Sequence[Figures]) -> dict[str, float]:
    """The median of each figure that every round has."""
    names = [name for name in rounds[0] if all(name in one for one in rounds)] if rounds else []
    return {name: median(one[name] for one in rounds) for name in names}


def spread(values: Sequence[float]) -> float:
    """How far apart the rounds were, as a part of their median: (highest - lowest) / median."""
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def ratio(value: float, to: float | None) -> float | None:
    """`value` as a multiple of `to`; None where that says nothing."""
    return value / to if to else None


def best(values: Mapping[str, float], *, high: bool) -> str:
    """Whose value is the best: the highest, or the lowest; "" of nobody."""
    if not values:
        return ""
    pick = max if high else min
    return pick(values, key=lambda name: values[name])
