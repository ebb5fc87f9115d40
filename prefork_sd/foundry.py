"""The molds of a service, one for each generation that preloads its app or has its own Python."""

from collections.abc import Callable, Collection, Iterator
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
        mold.order(order)

    def _live(self, release: Release, mold: Mold, enter: Callable[[], None]) -> int:
        enter()
        for other in self._molds.values():
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
                yield mold

    def made(self, generation: int, age: int) -> None:
        """An ordered worker lives, or never will."""
        if mold := self._molds.get(generation):
            mold.made(age)

    def pid_of(self, generation: int) -> int:
        """The generation's mold, or 0."""
        mold = self._molds.get(generation)
        return mold.pid if mold else 0

    def keep(self, generations: Collection[int]) -> None:
        """Let go of the molds of all other generations."""
        for generation in [one for one in self._molds if one not in generations]:
            mold = self._molds.pop(generation)
            mold.leaving = True
            self._leaving[mold.pid] = mold
            self._processes.kill(mold.pid, SIGTERM)

    def bury(self, pid: int) -> Mold | None:
        """A child is gone: the mold it was."""
        if leaving := self._leaving.pop(pid, None):
            return leaving
        for generation, mold in self._molds.items():
            if mold.pid == pid:
                return self._molds.pop(generation)
        return None

    def pids(self) -> list[int]:
        """Every mold that lives."""
        return [mold.pid for mold in self._molds.values()] + list(self._leaving)
