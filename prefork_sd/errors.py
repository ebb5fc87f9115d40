"""The errors of the house. Each one carries the answer to "and now?": its exit code."""

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses of every process of ours; 78 is EX_CONFIG of sysexits(3)."""

    CLEAN = 0
    FAILURE = 1
    USAGE = 2
    WORKER_BOOT_ERROR = 3
    APP_LOAD_ERROR = 4
    CONFIG = 78
    INTERRUPTED = 130  # by ^C: 128 and SIGINT, as shells have it


class PreforkError(Exception):
    """Something a person has to know: its text is a complete sentence for them."""

    exit_code: ExitCode = ExitCode.FAILURE


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration, and where.

    `line` counts from 1; 0 means that the place has no line (a command line, a default).
    `key` is dotted where it is nested ("unit.Service").
    """

    text: str
    key: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(part for part in (place, self.key, self.text) if part)


class ConfigError(PreforkError):
    """The configuration is wrong. Its text has one line for each problem."""

    exit_code = ExitCode.CONFIG

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class AppImportError(PreforkError):
    """The app cannot be had. The text says why in a line; `details` is the traceback, or empty."""

    exit_code = ExitCode.APP_LOAD_ERROR

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


class HookError(PreforkError):
    """A hook that may refuse (`on_starting`, `pre_fork`) did, by raising."""


class HaltServer(BaseException):
    """Leave the main loop. Not an Exception, so that no application handler can swallow it.

    `record` is what goes on record in place of a reason that is on record already.
    """

    def __init__(self, reason: str, exit_status: int = ExitCode.CLEAN, *, record: str = "") -> None:
        super().__init__(reason)
        self.record = record or reason
        self.reason = reason
        self.exit_status = exit_status
