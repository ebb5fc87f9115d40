"""The molds of a service, one for each generation that preloads its app or has its own Python."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from signal import SIGTERM

from prefork_sd import abroad, parcel
from prefork_sd.mold import Mold, Order, Post, be_mold
from prefork_sd.process import Processes, become_subreaper, share_memory
from prefork_sd.release import Release, Server


class Foundry:
    """Starts molds when a worker is ordered, and lets them go with their generation."""

    def __init__(self, processes: Processes, server: Server) -> None:
        self._processes = processes
        self._server = server
        self._package = -1  # a parcel of what we are, once another Python needs it
        self._molds: dict[int, Mold] = {}
        self._leaving: dict[int, Mold] = {}  # by pid
        # what may become a generation's next mold, by the age of the worker that it would come from
        self._latent: dict[int, dict[int, Mold]] = {}
        self._reforked: set[int] = set()  # generations that have had theirs, or cannot

    def order(
        self, release: Release, generation: int, order: Order, enter: Callable[[], None]
    ) -> None:
        """Have a worker made. `enter` is called first in a new mold. Raises OSError: no fork."""
        mold = self._molds.get(generation)
        if mold is None:
            become_subreaper()
            share_memory()
            mold = Mold(generation)
            try:
                if release.cfg.venv and self._package < 0:
                    self._package = parcel.pack()
                mold.pid = self._processes.fork(partial(self._live, release, mold, enter))
            except OSError:
                mold.close()
                raise
            self._molds[generation] = mold
        mold.order(self._with_heir(release, generation, order))

    def _with_heir(self, release: Release, generation: int, order: Order) -> Order:
        """The order of a worker that may fork the generation's next mold, if that is to come."""
        if generation in self._reforked or not release.cfg.refork_after:
            return order
        latent = self._latent.setdefault(generation, {})[order.age] = Mold(generation)
        return replace(order, heir=latent.theirs.fileno())

    def _live(self, release: Release, mold: Mold, enter: Callable[[], None]) -> int:
        enter()
        for other in [*self._molds.values(), *self._latents()]:
            other.close()
        mold.channel.close()
        post = Post(mold.generation, mold.theirs, mold.words, preload=release.cfg.preload_app)
        if release.cfg.venv:
            return abroad.depart(release, post, self._server, self._package)
        return be_mold(release, post, self._server)

    def hear(self) -> Iterator[Mold]:
        """Yield the molds that have something new to say."""
        for mold in self._molds.values():
            if mold.hear() or mold.refused:
                if mold.unfit:
                    self._reforked.add(mold.generation)
                yield mold
        for latent in self._latents():
            latent.hear()
            generation = latent.generation
            if generation in self._reforked:  # by another one, just now
                continue
            if latent.unfit or (latent.ready and not latent.lost and self._succeed(latent)):
                self._reforked.add(generation)
                yield latent
        for generation, latents in list(self._latent.items()):
            if generation in self._reforked:
                self._forget(generation)
            for age in [age for age, one in latents.items() if one.lost]:
                latents.pop(age).close()

    def _succeed(self, latent: Mold) -> bool:
        """Have a new mold take over, once nothing is on order from the old one."""
        old = self._molds.get(latent.generation)
        if old is not None and not old.idle:
            return False
        if old is not None:
            self._let_go(old)
        self._molds[latent.generation] = latent
        return True

    def _latents(self) -> list[Mold]:
        return [one for latents in self._latent.values() for one in latents.values()]

    def _forget(self, generation: int) -> None:
        """No other mold is going to come from a worker of that generation."""
        latents = self._latent.pop(generation, {})
        for age in list(latents):
            latent = latents.pop(age)
            if latent is not self._molds.get(generation):
                latent.close()

    def made(self, generation: int, age: int) -> None:
        """An ordered worker lives, or never will."""
        if mold := self._molds.get(generation):
            mold.made(age)
        if latent := self._latent.get(generation, {}).get(age):
            latent.theirs.close()  # if it dies, nobody has it

    def pid_of(self, generation: int) -> int:
        """The generation's mold, or 0."""
        mold = self._molds.get(generation)
        return mold.pid if mold else 0

    def keep(self, generations: Collection[int]) -> None:
        """Let go of the molds of all other generations."""
        for generation in [one for one in self._molds if one not in generations]:
            self._let_go(self._molds.pop(generation))
        for generation in [one for one in self._latent if one not in generations]:
            self._forget(generation)

    def _let_go(self, mold: Mold) -> None:
        mold.leaving = True
        self._leaving[mold.pid] = mold
        self._processes.kill(mold.pid, SIGTERM)

    def bury(self, pid: int) -> Mold | None:
        """A child is gone: the mold it was."""
        if leaving := self._leaving.pop(pid, None):
            return leaving
        for generation, mold in self._molds.items():
            if mold.pid == pid:
                self._reforked.discard(generation)  # the next one is cold again
                return self._molds.pop(generation)
        return None

    def pids(self) -> list[int]:
        """Every mold that lives."""
        return [mold.pid for mold in self._molds.values()] + list(self._leaving)
