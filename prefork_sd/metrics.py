"""Metrics as OpenMetrics text (openmetrics.io, version 1.0.0). Values come in, text goes out.

Who asks for text/plain gets the older format of Prometheus, version 0.0.4.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "prefork_sd"

Sample = tuple[str, Mapping[str, object], float]  # suffix, labels, value


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name without the prefix, its type, its help, its samples."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]
    unit: str = ""

    def lines(self) -> Iterator[str]:
        name = f"{PREFIX}_{self.name}"
        yield f"# TYPE {name} {self.kind}"
        if self.unit:
            yield f"# UNIT {name} {self.unit}"
        yield f"# HELP {name} {self.help}"
        yield from self._values(name)

    def plain(self) -> Iterator[str]:
        """As version 0.0.4 has it: the suffix is part of the name, and there is no info."""
        name = f"{PREFIX}_{self.name}"
        kind = "gauge" if self.kind == "info" else self.kind
        suffix = {"info": "_info", "counter": "_total"}.get(self.kind, "")
        yield f"# HELP {name}{suffix} {self.help}"
        yield f"# TYPE {name}{suffix} {kind}"
        yield from self._values(name)

    def _values(self, name: str) -> Iterator[str]:
        for suffix, labels, value in self.samples:
            told = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
            yield f"{name}{suffix}{f'{{{told}}}' if told else ''} {number(value)}"


def exposition(families: Iterable[Family], accept: str = "") -> tuple[str, str]:
    """The content type and the text for a client with that Accept field (RFC 9110, 12.5.1)."""
    if "text/plain" in accept and "openmetrics" not in accept:
        return PLAIN_TYPE, "".join(f"{line}\n" for one in families for line in one.plain())
    return CONTENT_TYPE, text(families)


def text(families: Iterable[Family]) -> str:
    """The whole exposition, with the mark of its end."""
    lines = [line for family in families for line in family.lines()]
    return "\n".join([*lines, "# EOF"]) + "\n"


def gauge(name: str, help: str, value: float, unit: str = "") -> Family:
    return Family(name, "gauge", help, [("", {}, value)], unit)


def gauges(name: str, help: str, label: str, values: Mapping[str, float], unit: str = "") -> Family:
    """A gauge for each value of a label."""
    samples: list[Sample] = [("", {label: key}, value) for key, value in values.items()]
    return Family(name, "gauge", help, samples, unit)


def counter(name: str, help: str, value: float, unit: str = "") -> Family:
    return Family(name, "counter", help, [("_total", {}, value)], unit)


def counters(name: str, help: str, label: str, values: Mapping[str, float]) -> Family:
    """A counter for each value of a label."""
    samples: list[Sample] = [("_total", {label: key}, value) for key, value in values.items()]
    return Family(name, "counter", help, samples)


def histogram(
    name: str, help: str, bounds: Sequence[float], buckets: Sequence[int], total: float, unit: str
) -> Family:
    """`buckets` are counts that are not cumulated; the last one has no bound."""
    samples: list[Sample] = []
    count = 0
    for bound, more in zip([*map(number, bounds), "+Inf"], buckets, strict=True):
        count += more
        samples.append(("_bucket", {"le": bound}, count))
    samples += [("_sum", {}, total), ("_count", {}, count)]
    return Family(name, "histogram", help, samples, unit)


def number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
