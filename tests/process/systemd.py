"""A test plays systemd: it owns the listeners and the files, starts the service and asks it."""

import contextlib
import json
import os
import socket
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, Signals
from typing import Any

from prefork_sd import asking
from tests.process import proc, spawning
from tests.process.client import Answer, Client
from tests.process.hearing import BOUND, Hearing, Message, readable
from tests.process.spawning import Program

ROOT = Path(__file__).parents[2]
APP = Path(__file__).with_name("app.py")


class Systemd(Hearing):
    """One service: its files, its listeners, its process, and all that is heard of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.site, self.runtime = folder / "site", folder / "run"
        self.site.mkdir()
        self.runtime.mkdir()
        self.yaml = self.site / "shop.yaml"
        self.environ: dict[str, str] = {}
        self.within: tuple[str, ...] = ()  # a command that runs it
        self.listeners: list[tuple[str, socket.socket]] = []
        self.pid = 0
        self.status_code: int | None = None
        self._pidfd = -1
        self._programs: list[Program] = []
        self._clients: list[Client] = []

    # ---- what is on disk

    def deploy(self, version: str = "1", more: str = "") -> None:
        """Put a release of the app in place; `more` is code at its end."""
        text = APP.read_text().replace('VERSION = "1"', f'VERSION = "{version}"')
        self.write("app.py", f"{text}\n{more}\n")

    def configure(self, **settings: object) -> None:
        """Write the YAML."""
        values = {"app": "app:application", "workers": 2} | settings
        self.write("shop.yaml", "".join(f"{k}: {json.dumps(v)}\n" for k, v in values.items()))

    def write(self, name: str, text: str) -> Path:
        """Replace a file of the site in one step, as a deployment should."""
        path, draft = self.site / name, self.site / f".{name}"
        draft.write_text(text)
        return draft.replace(path)

    # ---- its life

    def listen(self, name: str = "http", path: str = "") -> socket.socket:
        """Open a listener, as a .socket unit does: a unix socket at `path`, or a TCP port."""
        sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        sock.bind(str(self.folder / path) if path else ("127.0.0.1", 0))
        sock.listen(1024)
        self.listeners.append((name, sock))
        return sock

    def start(self, *, watchdog: float = 0.0, **settings: object) -> None:
        """Start the service: the default app unless the test deployed one, and these settings."""
        if not (self.site / "app.py").exists():
            self.deploy()
        if not self.yaml.exists() or settings:
            self.configure(**settings)
        if not (self.listeners or "bind" in settings):
            self.listen()
        self.start_command("run", str(self.yaml), watchdog=watchdog)

    def start_command(self, *arguments: str, watchdog: float = 0.0) -> None:
        """Start `prefork-sd ARGUMENTS` as systemd starts a service."""
        environ = self._environment()
        given = [*((name, sock.fileno()) for name, sock in self.listeners), *self.store]
        if given:
            environ["LISTEN_FDS"] = str(len(given))
            environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in given)
        if watchdog:
            environ["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        fds = [fd for _, fd in given]
        self.pid, log = spawning.start(arguments, environ, fds, self.within)
        self._pidfd = os.pidfd_open(self.pid)
        self.attend(log)

    def again(self) -> Message:
        """Start it once more, after its end, and wait for READY=1."""
        assert self.status_code is not None
        self.status_code = None
        return self.up()

    def up(self, **settings: Any) -> Message:
        """Start it and wait for READY=1."""
        self.start(**settings)
        return self.expect("READY=1")

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            # two releases within a second would share their bytecode
            "PYTHONDONTWRITEBYTECODE": "1",
            "PREFORK_SD_LOG": "json",
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "RUNTIME_DIRECTORY": str(self.runtime),
            "GATE": str(self.gate.path),
            **self.environ,
        }

    def kill(self, signum: Signals) -> None:
        os.kill(self.pid, signum)

    def hup(self) -> None:
        self.kill(SIGHUP)

    def settle(self) -> None:
        """Let the arbiter's loop turn twice: what had happened is then dealt with."""
        for _ in range(2):
            self.kill(SIGUSR1)
            self.record(text="serving: ")

    def stop(self, signum: Signals = SIGTERM, within: float = BOUND) -> int:
        """Have it end; its exit status."""
        self.kill(signum)
        return self.ended(within)

    def ended(self, within: float = BOUND) -> int:
        """Wait for its end; the exit status, or minus the signal. All that it said is then read."""
        if self.status_code is None:
            self.wait(lambda: readable(self._pidfd), "its end", within, self._pidfd)
            os.close(self._pidfd)
            self.status_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.hear(0.0)
        return self.status_code

    # ---- asking it

    def client(self, number: int = 0) -> Client:
        """A connection to one of the listeners."""
        client = Client.of(self.listeners[number][1])
        self._clients.append(client)
        return client

    def get(self, path: str = "/") -> Answer:
        """A page, by a connection of its own."""
        return self.client().send(path, close=True).answer()

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """A method of the control socket."""
        path = self.runtime / "control"
        return asking.call(path, f"io.prefork.sd.{method}", parameters, timeout=BOUND)

    def status(self) -> dict[str, Any]:
        return self.call("Status")

    def workers(self, state: str = "ready") -> list[int]:
        """The pids of the workers in that state, the oldest first."""
        found = [worker for worker in self.status()["workers"] if worker["state"] == state]
        return [worker["pid"] for worker in sorted(found, key=lambda worker: worker["age"])]

    def run(self, *arguments: str) -> Program:
        """Start a program of ours beside it: `prefork-sd ARGUMENTS`."""
        self._programs.append(Program(*spawning.start(arguments, self._environment())))
        return self._programs[-1]

    def done(self, program: Program, within: float = BOUND) -> Program:
        """Wait for its end."""
        self.wait(lambda: program.ended(), "the end of a program", within, program.output)
        return program

    def let_in(self, program: Program, within: float = BOUND) -> None:
        """Let everybody who knocks go on until the program has ended."""

        def over() -> bool:
            while visitor := self.gate.admit():
                visitor.release()
            return program.ended()

        self.wait(over, "the end of a program", within, self.gate, program.output)

    def cancel(self, program: Program) -> None:
        """End it now, as systemd does when it took too long."""
        os.kill(program.pid, SIGKILL)
        assert self.done(program).status == -SIGKILL

    def reload(self, within: float = BOUND) -> Program:
        """What ExecReload= runs: its status, and all that it printed."""
        return self.done(self.run("reload", str(self.yaml)), within)

    # ---- the end

    def close(self) -> None:
        """End it at once; nothing may be left, and nothing may have come out but records."""
        self.gate.open()
        try:
            if self.pid and self.status_code is None:
                assert self.stop(SIGQUIT) == 0, self.story()
            for program in self._programs:
                self.done(program)
            self.wait_for_processes()
            assert not self.noise, self.story()
        finally:
            self.clean()

    def processes(self) -> list[int]:
        """What runs in its session."""
        return proc.session(self.pid) if self.pid else []

    def wait_for_processes(self, within: float = BOUND) -> None:
        """Wait until each process of its session has ended."""
        for pid in self.processes():
            self.gone(pid, within)

    def clean(self) -> None:
        """Whatever is left, without a word."""
        ours = [one.pid for one in self._programs if one.status is None]
        if self.pid and self.status_code is None:
            ours.append(self.pid)
        for pid in [*self.processes(), *ours]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        for pid in ours:
            os.waitpid(pid, 0)
        proc.reap()
        for client in self._clients:
            client.close()
        for _, sock in self.listeners:
            sock.close()
        super().close()
