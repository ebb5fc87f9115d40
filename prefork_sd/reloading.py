"""A reload as a transaction: begun, proved by a canary, rolled out, and concluded in any case."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefork_sd import bulletin, journal
from prefork_sd.control import Call
from prefork_sd.errors import PreforkError
from prefork_sd.journal import Event
from prefork_sd.lookout import RELOAD_FAILED, RELOADED
from prefork_sd.release import Release, left_behind

if TYPE_CHECKING:
    from prefork_sd.arbiter import Arbiter

PATIENCE = 3  # failures after the canary before those who wait are told


@dataclass(slots=True)
class Reload:
    """One reload, or several that were asked for while it was under way."""

    callers: list[Call] = field(default_factory=list)
    generation: int = 0  # 0: the configuration has not been read yet
    began: float = 0.0
    failures: int = 0
    notes: list[str] = field(default_factory=list)  # what it could not change

    @classmethod
    def joined(cls, under_way: "Reload | None", another: "Reload") -> "Reload":
        """The same transaction, started over for one more who asked."""
        if under_way is None:
            return another
        callers = [*under_way.callers, *another.callers]
        return cls(callers, began=under_way.began, notes=under_way.notes)

    def start(self, generation: int, now: float) -> None:
        self.generation, self.began = generation, self.began or now

    def failed_again(self) -> bool:
        """A worker after the canary failed; True once that is a pattern."""
        self.failures += 1
        return self.failures >= PATIENCE

    def succeed(self, generation: int, message: str) -> None:
        message = "\n".join([message, *dict.fromkeys(self.notes)])
        for call in self.callers:
            call.reply({"generation": generation, "message": message})

    def fail(self, reason: str, details: str) -> None:
        for call in self.callers:
            call.error("io.prefork.sd.ReloadFailed", {"reason": reason, "details": details})


def begin(server: "Arbiter", reload: Reload) -> None:
    """Read everything afresh and let a canary of the new generation boot."""
    if server.stopping:
        return
    now = time.monotonic()
    if server.under_way is None:
        server.herald.reloading("reloading", now)
    reload = server.under_way = Reload.joined(server.under_way, reload)
    server.winched = False
    try:
        server.hooks.on_reload(server)
        release = Release.of(server.app.fresh(), server.log)
        generation = server.pool.begin()
        server.releases[generation] = release
        reload.start(generation, now)
        server.set_workers(server.num_workers)
        fields = journal.fields(Event.RELOAD_BEGIN, PREFORK_SD_GENERATION=generation)
        server.log.info("reload: generation %d begins with one worker", generation, extra=fields)
    except PreforkError as error:
        conclude(server, str(error))
    except Exception as error:
        server.log.exception("the reload itself failed")
        conclude(server, f"the reload itself failed: {type(error).__name__}: {error}")


def proved(server: "Arbiter") -> None:
    """A worker of the new generation is ready: its configuration is now ours."""
    reload, before = server.under_way, server.release
    if reload is None or server.releases[reload.generation] is before:
        return
    release = server.releases[reload.generation]
    left = left_behind(before.cfg, release.cfg, server.app.name)
    for sentence in [*left, *server.groups.cannot(release.cfg.worker_memory_max)]:
        server.warn(sentence)
        reload.notes.append(sentence)
    server.use(release, reload.generation)
    changed = before.workers != release.workers  # else TTIN, TTOU and Scale hold
    server.set_workers(release.workers if changed else server.num_workers)


def failed(server: "Arbiter", generation: int, reason: str, details: str = "") -> None:
    """A worker could not boot: a canary decides, a later one only when it becomes a pattern."""
    reload = server.under_way
    if reload is None or generation != reload.generation:
        return
    if server.pool.proving():
        conclude(server, reason, details)
    elif reload.failed_again():
        conclude(server, f"{reason} (it will be tried again)", details)
        server.healing = True


def settle(server: "Arbiter") -> None:
    """Conclude the reload when each new connection goes to the new generation."""
    if server.under_way and server.under_way.generation and server.pool.settled():
        conclude(server)
    elif server.healing and server.pool.settled():  # late, but all of it is there now
        server.healing, server.last_reload = False, ""


def conclude(server: "Arbiter", failure: str = "", details: str = "") -> None:
    """The verdict: to systemd, to those who asked, and on record. READY=1 in every case."""
    reload, server.under_way = server.under_way, None
    server.healing = False
    if reload is None:
        return
    now, pool = time.monotonic(), server.pool
    if failure:
        pool.abandon()  # a generation that has not proved itself, if there is one
    server.last_reload = f"the last reload failed: {failure}" if failure else ""
    server.herald.reloaded(bulletin.line(server), now, failed=bool(failure))
    fields = {"PREFORK_SD_GENERATION": pool.target}
    server.scoreboard.tick(RELOAD_FAILED if failure else RELOADED)
    if failure:
        text = f"reload failed: {failure}\ngeneration {pool.serving} serves on\n{details}"
        server.log.error("%s", text.strip(), extra=journal.fields(Event.RELOAD_FAILED, **fields))
        reload.fail(failure, details)
    else:
        text = f"generation {pool.target} serves after {now - reload.began:.1f} s"
        server.log.info("reload: %s", text, extra=journal.fields(Event.RELOAD_DONE, **fields))
        reload.succeed(pool.target, text)
    known = {child.generation for child in pool.children.values()} | {pool.serving, pool.target}
    server.releases = {key: value for key, value in server.releases.items() if key in known}
