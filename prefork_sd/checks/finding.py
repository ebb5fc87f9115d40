"""One thing that somebody should look at."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What it is, why it matters, and the command or the line of the file that mends it."""

    what: str
    why: str
    mend: str

    def __str__(self) -> str:
        return f"warning: {self.what}\n    {self.why}\n    mend: {self.mend}"
