"""How a worker's end is put on record: one record, with all the evidence there is."""

import importlib
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM

from prefork_sd import parcel
from prefork_sd.journal import Event
from prefork_sd.pool import Child, State
from prefork_sd.process import Exit, signal_name
from prefork_sd.scoreboard import InHand

NOT_THE_APP = (
    f'  File "{Path(__file__).parent}/',
    '  File "<frozen ',
    f'  File "{importlib.__file__}"',
    f'  File "{sys.argv[0]}"',
    f'  File "{parcel.PLACE}',
    "Fatal Python error: Aborted",
    "Extension modules:",
)
THREAD = "(most recent call first):"
TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True, slots=True)
class Obituary:
    """What there is to say. `details` are the last words: a traceback or stacks, or empty."""

    level: int
    event: Event
    text: str
    details: str = ""
    reason: str = ""  # the same without the worker's name, for a verdict
    fields: dict[str, object] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Why a start or a reload fails if this is what decides it."""
        return self.reason or self.text

    @property
    def message(self) -> str:
        return f"{self.text}\n{self.details}" if self.details else self.text


def obituary(
    child: Child,
    exit: Exit,
    reason: str,
    words: str,
    requests: list[InHand],
    now: float,
    *,
    oom: bool = False,
) -> Obituary:
    """Judge by facts: what we did to it, how it ended, what it left behind.

    `reason` is that of the last `Kill`, `requests` are those it had in hand; `oom`: the kernel has
    killed in its group for want of memory.
    """
    fields = facts(child, exit, requests)
    name = f"worker {child.pid}" if child.pid > 0 else f"the mold of generation {child.generation}"
    held = holding(requests, now)
    if oom and exit.signal == SIGKILL:
        text = f"{name} was killed by the kernel for want of memory{held}"
        return Obituary(logging.ERROR, Event.WORKER_OOM, text, "", "", fields)
    if child.state is State.ABORTED:
        text = f"{name} {reason}{held} and was killed"
        event = Event.WORKER_HUNG if child.ready_at <= now else Event.WORKER_BOOT_FAILED
        return Obituary(logging.ERROR, event, text, evidence(words), "", fields)
    obeyed = child.ready_at > now and exit.signal == SIGTERM  # as one that boots does
    if child.unwanted and (obeyed or not (exit.signal or exit.status)):
        return Obituary(logging.INFO, Event.WORKER_EXITED, f"{name} has left", "", "", fields)
    if child.ready_at > now and not exit.signal and words:
        summary, _, details = words.partition("\n")
        text = f"{name} could not boot: {summary}"
        failed = Event.WORKER_BOOT_FAILED
        return Obituary(logging.ERROR, failed, text, unheard(details, summary), summary, fields)
    when = "while it was booting" if child.ready_at > now else ""
    text = " ".join(part for part in (f"{name} {exit}", when) if part) + held
    if exit.signal:
        return Obituary(logging.ERROR, Event.WORKER_KILLED, text, evidence(words), "", fields)
    event = Event.WORKER_BOOT_FAILED if when else Event.WORKER_EXITED
    return Obituary(logging.WARNING, event, text, words, "", fields)


def unheard(details: str, summary: str) -> str:
    """The details, unless all that they say is in the summary."""
    lines = [line.strip() for line in details.splitlines() if line != TRACEBACK]
    return "" if all(line in summary for line in lines) else details.strip()


def evidence(words: str) -> str:
    """The stacks as faulthandler wrote them, without the frames that are ours.

    Of a thread whose frames are all ours nothing is left.
    """
    lines = [line for line in words.splitlines() if not line.startswith(NOT_THE_APP)]
    kept = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=False)
        if not line.endswith(THREAD) or after.startswith("  File ")
    ]
    return "\n".join(kept).strip()


def holding(requests: list[InHand], now: float) -> str:
    """The requests in hand, for people: " with GET /report in hand for 31.0 s"."""
    if not requests:
        return ""
    first = requests[0]
    text = f" with {first.method} {first.path} in hand for {now - first.since:.1f} s"
    return text + (f" and {len(requests) - 1} more" if len(requests) > 1 else "")


def facts(child: Child, exit: Exit | None, requests: list[InHand]) -> dict[str, object]:
    """The fields of a record about a worker."""
    fields: dict[str, object] = {
        "PREFORK_SD_WORKER_PID": child.pid,
        "PREFORK_SD_WORKER_AGE": child.age,
        "PREFORK_SD_GENERATION": child.generation,
    }
    if exit is not None and exit.signal:
        fields["PREFORK_SD_SIGNAL"] = signal_name(exit.signal)
    elif exit is not None:
        fields["PREFORK_SD_EXIT_STATUS"] = exit.status
    if requests:
        fields["HTTP_METHOD"], fields["HTTP_PATH"] = requests[0].method, requests[0].path
    return fields
