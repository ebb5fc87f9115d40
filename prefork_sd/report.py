"""What a service says of itself, as text for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = ("PID", "AGE", "GEN", "STATE", "UP", "REQUESTS", "5XX", "RSS", "PSS", "IN HAND")
SERVICES = ("SERVICE", "PID", "STATE", "READY", "REQUESTS", "5XX", "STATUS")
RIGHT = {"PID", "AGE", "GEN", "UP", "READY", "REQUESTS", "5XX", "RSS", "PSS"}


def table(status: Mapping[str, Any]) -> str:
    """The answer of io.prefork.sd.Status: a line for the service, then one for each worker."""
    rows = [COLUMNS, *(_row(worker) for worker in status["workers"])]
    head = f"{status['service']} ({status['pid']}): {status['status']}"
    where = f"listening on {', '.join(status['listeners'])}"
    return "\n".join([head, where, "", *_aligned(rows)])


def _row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    busy = [
        f"{one['method']} {one['path']} for {one['usec'] / 1e6:.1f} s" for one in worker["in_hand"]
    ]
    return (
        str(worker["pid"]),
        str(worker["age"]),
        str(worker["generation"]),
        worker["state"],
        span(worker["uptime_usec"] / 1e6),
        str(worker["requests"]),
        str(worker["errors"]),
        _size(worker["rss"]),
        _size(worker.get("pss")),
        ", ".join(busy) or "-",
    )


def _size(count: int | None) -> str:
    return "-" if count is None else f"{count >> 20}M"


def services(known: Mapping[str, Mapping[str, Any] | str]) -> str:
    """One line for each service of the machine; text where one could not be asked."""
    rows: list[Sequence[str]] = [SERVICES]
    for name, status in sorted(known.items()):
        if isinstance(status, str):
            rows.append((name, "-", "unknown", "-", "-", "-", status))
            continue
        ready = f"{status['ready']}/{status['wanted']}"
        counts = (str(status["requests"]), str(status["errors"]))
        pid, state, text = str(status["pid"]), status["state"], status["status"]
        rows.append((name, pid, state, ready, *counts, text))
    return "\n".join(_aligned(rows))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if title in RIGHT else cell.ljust(width)
            for title, cell, width in zip(rows[0], row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def span(seconds: float) -> str:
    """A duration in its two largest units: "3d 4h", "12m 5s", "8s"."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
