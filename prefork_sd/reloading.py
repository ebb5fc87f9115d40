"""A reload as a transaction: which generation it is to bring, and who waits for the verdict."""

from dataclasses import dataclass, field

from prefork_sd.control import Call

PATIENCE = 3  # failures after the canary before those who wait are told


@dataclass(slots=True)
class Reload:
    """One reload, or several that were asked for while it was under way."""

    callers: list[Call] = field(default_factory=list)
    generation: int = 0  # 0: the configuration has not been read yet
    began: float = 0.0
    failures: int = 0

    @classmethod
    def joined(cls, under_way: "Reload | None", another: "Reload") -> "Reload":
        """The same transaction, started over for one more who asked."""
        if under_way is None:
            return another
        return cls([*under_way.callers, *another.callers], began=under_way.began)

    def start(self, generation: int, now: float) -> None:
        self.generation, self.began = generation, self.began or now

    def failed_again(self) -> bool:
        """A worker after the canary failed; True once that is a pattern."""
        self.failures += 1
        return self.failures >= PATIENCE

    def succeed(self, generation: int, message: str) -> None:
        for call in self.callers:
            call.reply({"generation": generation, "message": message})

    def fail(self, reason: str, details: str) -> None:
        for call in self.callers:
            call.error("io.prefork.sd.ReloadFailed", {"reason": reason, "details": details})
