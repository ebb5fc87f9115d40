"""One thing that somebody should look at."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What it is, why it matters, and the command or the line of the file that mends it.

    It `stops` the service if a start is certain to fail as long as it is so, or to serve nothing.
    What the import needs, too, may be `missing`: then that would only say the same.
    """

    what: str
    why: str
    mend: str
    stops: bool = False
    missing: bool = False

    @property
    def word(self) -> str:
        return "error" if self.stops else "warning"

    def __str__(self) -> str:
        return f"{self.word}: {self.what}\n    {self.why}\n    mend: {self.mend}"
