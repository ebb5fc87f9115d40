"""An arbiter on a stage: real configuration, scoreboard and notify socket, but no process."""

import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from signal import SIGQUIT, SIGTERM, Signals

from prefork_sd.arbiter import Arbiter
from prefork_sd.loader import Application
from prefork_sd.pool import State
from prefork_sd.process import Exit, Processes
from prefork_sd.scoreboard import BOOTED, DRAINING
from prefork_sd.workers.base import Worker


class Kernel(Processes):
    """Processes that only exist on paper."""

    def __init__(self) -> None:
        self.pids = count(100_001)
        self.sent: list[tuple[int, Signals]] = []
        self.exits: list[Exit] = []
        self.refusal: OSError | None = None
        self.on_kill: Callable[[int, int], None] = lambda pid, signum: None

    def fork(self, run: Callable[[], int]) -> int:
        if self.refusal:
            raise self.refusal
        return next(self.pids)

    def kill(self, pid: int, signum: int, *, group: bool = False) -> None:
        self.sent.append((pid, Signals(signum)))
        self.on_kill(pid, signum)

    def reap(self) -> Iterator[Exit]:
        while self.exits:
            yield self.exits.pop(0)


class Journal(logging.Handler):
    """What was put on record."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, event: str) -> list[str]:
        """The messages of all records of that event, like "worker-killed"."""
        found = [one for one in self.records if vars(one).get("PREFORK_SD_EVENT") == event]
        return [record.getMessage() for record in found]


class Stage:
    """The arbiter, everything it touches, and what its workers do."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.yaml = folder / "shop.yaml"
        self.configure(**settings)
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._systemd.bind(str(folder / "notify"))
        os.environ["NOTIFY_SOCKET"] = str(folder / "notify")
        self.kernel = Kernel()
        self.journal = Journal()
        log = logging.getLogger("prefork_sd")
        self._handlers, log.handlers[:] = log.handlers[:], [self.journal]
        self._handled = {signum: signal.getsignal(signum) for signum in Arbiter.SIGNALS}
        self.arbiter = Arbiter(Application("shop", self.yaml), log, self.kernel)
        self.pool = self.arbiter.pool

    def configure(self, **settings: object) -> None:
        """Write the YAML (of which JSON is a part)."""
        values = {"app": "shop:app", "workers": 3, "bind": "127.0.0.1:0", **settings}
        self.yaml.write_text(json.dumps(values))

    def break_configuration(self) -> None:
        self.yaml.write_text("wrokers: 3\napp: shop:app\n")

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for signum, handler in self._handled.items():
            signal.signal(signum, handler)
        logging.getLogger("prefork_sd").handlers[:] = self._handlers
        for listener in self.arbiter.sockets:
            listener.close()
        for worker in self.arbiter.WORKERS.values():
            worker.words.close()
        self.arbiter.scoreboard.close()
        self._systemd.close()

    # ---- what systemd hears

    def heard(self) -> list[dict[str, str]]:
        """Every message since the last call."""
        messages: list[dict[str, str]] = []
        while True:
            try:
                data = self._systemd.recv(8192).decode()
            except BlockingIOError:
                return messages
            messages.append(dict(line.split("=", 1) for line in data.splitlines()))

    def said(self, *names: str) -> list[str]:
        """The names, of those asked for, in the order in which systemd heard them."""
        return [name for message in self.heard() for name in message if name in names]

    # ---- what the workers do

    def workers(self, state: State | None = None, generation: int = 0) -> list[Worker]:
        return [
            self.arbiter.WORKERS[child.pid]
            for child in self.pool.children.values()
            if state in (None, child.state) and generation in (0, child.generation)
        ]

    def boot(self, *workers: Worker) -> None:
        """These, or all that boot, are ready."""
        for worker in workers or self.workers(State.BOOTING):
            worker.tmp.introduce(worker.pid, worker.generation)
            worker.tmp.raise_flag(BOOTED)

    def die(self, worker: Worker, status: int = 0, signum: int = 0, words: str = "") -> None:
        if words:
            worker.words.write(words)
        self.kernel.exits.append(Exit(worker.pid, status, signum))

    def drain(self) -> None:
        """All that were told to go do so."""
        for worker in self.workers(State.RETIRING):
            worker.tmp.raise_flag(DRAINING)
            self.die(worker)

    def obey(self) -> None:
        """From now on workers go when they are told to."""

        def on_kill(pid: int, signum: int) -> None:
            if pid in self.arbiter.WORKERS and signum in (SIGTERM, SIGQUIT):
                self.kernel.exits.append(Exit(pid))
                self.arbiter.wakeup()

        self.kernel.on_kill = on_kill

    # ---- acts

    def signal(self, *signums: Signals) -> None:
        for signum in signums:
            self.arbiter.signal(signum)
        self.arbiter.turn()

    def turn(self) -> None:
        self.arbiter.turn()

    def start(self) -> None:
        """Until all workers are ready."""
        self.arbiter.start()
        self.turn()
        self.boot()
        self.turn()
        self.kernel.sent.clear()
        self.heard()

    def roll(self, turns: int = 50) -> None:
        """Boot and drain whatever has to, until nothing changes any more."""
        for _ in range(turns):
            self.boot()
            self.drain()
            self.turn()
            if self.pool.settled() and not self.workers(State.RETIRING):
                return
        raise AssertionError(f"does not settle: {self.pool}")

    def signals(self, signum: Signals) -> list[int]:
        """Who was sent that signal, since the start."""
        return [pid for pid, sent in self.kernel.sent if sent is signum]
