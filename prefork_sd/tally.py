"""How fast the service is: what changed between two looks."""

from math import inf


class Tally:
    """Rates. The clock is monotonic seconds, always passed in."""

    def __init__(self) -> None:
        self._requests = self._errors = 0
        self._looked = -inf
        self.rate = 0.0  # requests a second between the last two looks
        self.errors = 0  # responses with 5xx between them

    def look(self, requests: int, errors: int, now: float) -> None:
        """Take the rate since the last look."""
        if self._looked > -inf and now > self._looked:
            self.rate = (requests - self._requests) / (now - self._looked)
            self.errors = errors - self._errors
        self._requests, self._errors, self._looked = requests, errors, now
