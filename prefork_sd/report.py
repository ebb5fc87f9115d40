"""What a service says of itself, as text for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = ("PID", "AGE", "GEN", "STATE", "UP", "REQUESTS", "5XX", "IN HAND")
RIGHT = {0, 1, 2, 4, 5, 6}


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
        ", ".join(busy) or "-",
    )


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
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
