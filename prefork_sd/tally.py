"""How fast the service is: what changed between two looks."""

from math import inf


class Tally:
    """Rates. The clock is monotonic seconds, always passed in."""

    def __init__(self) -> None:
        self._requests = self._errors = 0
        self._looked = -inf
        self.rate = 0.0  # requests a second between the last two looks
        self.errors = 0  # responses with 5xx between them
        self.busy = 0  # workers with a request in hand at the last look

    def look(self, requests: int, errors: int, now: float, busy: int = 0) -> None:
        """Take the rate since the last look."""
        self.busy = busy
        if self._looked > -inf and now > self._looked:
            self.rate = (requests - self._requests) / (now - self._looked)
            self.errors = errors - self._errors
        self._requests, self._errors, self._looked = requests, errors, now
