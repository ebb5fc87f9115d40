"""A test plays systemd: it owns the listener, hears the notifications, and reads the log.

Every wait has a cause (a notification, a record of the log, a knock at the gate, an answer, the
end of a process) and a bound.
"""

import contextlib
import fcntl
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGQUIT, SIGTERM, Signals
from typing import Any, Protocol, TypeVar

from prefork_sd import control
from tests.process import proc
from tests.process.client import Answer, Client
from tests.process.gate import Gate, Visitor

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
APP = Path(__file__).with_name("app.py")
BOUND = 10.0  # seconds for anything that is to happen
FIRST_FD = 3
# systemd starts a service in "/", and LISTEN_PID is the pid of the program itself
AS_SYSTEMD = 'cd / && export LISTEN_PID=$$ WATCHDOG_PID=$$ && exec "$@"'
PREFORK_SD = (sys.executable, "-P", "-m", "prefork_sd")
Record = dict[str, Any]


class HasFileno(Protocol):
    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram on the notify socket, and when it was read (monotonic seconds)."""

    fields: dict[str, str]
    at: float

    def __contains__(self, assignment: str) -> bool:
        """Whether it has that "NAME=beginning of the value"."""
        name, _, value = assignment.partition("=")
        return name in self.fields and self.fields[name].startswith(value)


@dataclass(slots=True)
class Program:
    """A client program of ours that runs beside the service, like `prefork-sd reload`."""

    pid: int
    output: int
    text: str = ""
    status: int | None = None

    def ended(self) -> bool:
        """Take what it printed; True when it has ended, and `status` is known."""
        if self.status is None:
            with contextlib.suppress(BlockingIOError):
                while data := os.read(self.output, 65536):
                    self.text += data.decode()
                os.close(self.output)
                self.output = -1
                self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status is not None


@dataclass(slots=True)
class Systemd:
    """One service: its files, its listeners, its process, and all that was heard of it."""

    folder: Path
    listeners: list[tuple[str, socket.socket]] = field(default_factory=list)
    store: list[tuple[str, int]] = field(default_factory=list)  # descriptors kept for it
    messages: list[Message] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)  # what is on standard error but no record
    environ: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    status_code: int | None = None
    site: Path = field(init=False)
    yaml: Path = field(init=False)
    runtime: Path = field(init=False)
    gate: Gate = field(init=False)
    _notify: socket.socket = field(init=False)
    _log: int = -1
    _pidfd: int = -1
    _rest: bytes = b""
    _heard: int = 0  # messages that `expect` has passed
    _taken: set[int] = field(default_factory=set)  # records that `record` has returned
    _programs: list[Program] = field(default_factory=list)
    _clients: list[Client] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.site, self.runtime = self.folder / "site", self.folder / "run"
        self.site.mkdir()
        self.runtime.mkdir()
        self.yaml = self.site / "shop.yaml"
        self.gate = Gate(self.folder / "gate")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notify.bind(str(self.folder / "notify"))

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
        if not self.listeners:
            self.listen()
        environ = self._environment()
        given = [*((name, sock.fileno()) for name, sock in self.listeners), *self.store]
        environ["LISTEN_FDS"] = str(len(given))
        environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in given)
        if watchdog:
            environ["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        self._log, write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._log, False)
        command = (*PREFORK_SD, "run", str(self.yaml))
        self.pid = _spawn(command, environ, write_end, [fd for _, fd in given])
        self._pidfd = os.pidfd_open(self.pid)
        os.close(write_end)

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

    def stop(self, signum: Signals = SIGTERM, within: float = BOUND) -> int:
        """Have it end; its exit status."""
        self.kill(signum)
        return self.ended(within)

    def ended(self, within: float = BOUND) -> int:
        """Wait for its end; the exit status, or minus the signal. All that it said is then read."""
        if self.status_code is None:
            self.wait(lambda: _readable(self._pidfd), "its end", within, self._pidfd)
            _, status = os.waitpid(self.pid, 0)
            self.status_code = os.waitstatus_to_exitcode(status)
            self.hear(0.0)
        return self.status_code

    # ---- what it says

    def wait(
        self,
        happened: Callable[[], T | None],
        what: str,
        within: float = BOUND,
        *fds: HasFileno | int,
    ) -> T:
        """Listen until something has happened. `fds` tell, too, that it is time to look again."""
        deadline = time.monotonic() + within
        while not (found := happened()):
            left = deadline - time.monotonic()
            over = self.pid and self._log == -1 and not fds  # nobody is left to say anything
            if left <= 0 or over:
                raise AssertionError(f"waited {within} s for {what}\n{self.story()}")
            self.hear(left, *fds)
        return found

    def hear(self, timeout: float, *fds: HasFileno | int) -> bool:
        """Take messages and records as they come; False: nothing came within `timeout` seconds."""
        poll = select.poll()
        for one in (self._notify, self._log, *fds):
            if one != -1:
                poll.register(one, select.POLLIN)
        events = poll.poll(max(0.0, timeout) * 1000)
        self._take_records()
        self._take_messages()
        return bool(events)

    def _take_messages(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while received := socket.recv_fds(self._notify, 65536, 8):
                data, fds, _, _ = received
                lines = (line.partition("=") for line in data.decode().splitlines())
                fields = {name: value for name, _, value in lines}
                self.messages.append(Message(fields, time.monotonic()))
                if "FDSTORE" in fields:
                    self._keep(fields["FDNAME"], *fds)

    def _keep(self, name: str, fd: int) -> None:
        """The file descriptor store."""
        os.set_inheritable(fd, False)
        self.store.append((name, fd))

    def _take_records(self) -> None:
        if self._log == -1:
            return
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._log, 65536):
                self._rest += data
            os.close(self._log)
            self._log = -1
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            try:
                self.records.append(json.loads(line))
            except ValueError:
                self.noise.append(line.decode())

    def expect(self, *assignments: str, within: float = BOUND) -> Message:
        """The next message that has each "NAME=beginning of the value"; earlier ones are passed."""

        def found() -> Message | None:
            while self._heard < len(self.messages):
                message = self.messages[self._heard]
                self._heard += 1
                if all(assignment in message for assignment in assignments):
                    return message
            return None

        return self.wait(found, f"a message with {assignments}", within)

    def listen_for(self, seconds: float) -> None:
        """Listen for that long: for what must not come."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.hear(left)

    def said(self, assignment: str) -> list[Message]:
        """All messages so far that have it."""
        self.hear(0.0)
        return [message for message in self.messages if assignment in message]

    def record(
        self, event: str = "", text: str = "", within: float = BOUND, **fields: object
    ) -> Record:
        """The next record of that event with that text in it; each is returned once."""

        def found() -> Record | None:
            for number, record in enumerate(self.records):
                if number not in self._taken and _fits(record, event, text, fields):
                    self._taken.add(number)
                    return record
            return None

        return self.wait(found, f"a record of {event} {text!r} {fields}", within)

    def all_records(self, event: str = "", text: str = "", **fields: object) -> list[Record]:
        """All records so far."""
        self.hear(0.0)
        return [record for record in self.records if _fits(record, event, text, fields)]

    def knock(self, what: str = "", within: float = BOUND) -> Visitor:
        """The next process at the gate."""
        visitor = self.wait(self.gate.admit, f"a knock for {what!r}", within, self.gate)
        assert what in visitor.what
        return visitor

    def let_in(self, program: Program, within: float = BOUND) -> None:
        """Let everybody who knocks go on until the program has ended."""

        def over() -> bool:
            while visitor := self.gate.admit():
                visitor.release()
            return program.ended()

        self.wait(over, "the end of a program", within, self.gate, program.output)

    def story(self) -> str:
        """All that was heard, for the report of a failed test."""
        self.hear(0.0)
        told = [f"  {message.fields}" for message in self.messages]
        logged = [f"  {record['level']}: {record['message']}" for record in self.records]
        return "\n".join(["notified:", *told, "logged:", *logged, *self.noise])

    # ---- asking it

    def client(self, number: int = 0) -> Client:
        """A connection to one of the listeners."""
        client = Client(self.listeners[number][1])
        self._clients.append(client)
        return client

    def get(self, path: str = "/") -> Answer:
        """A page, by a connection of its own."""
        return self.client().send(path, close=True).answer()

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """A method of the control socket."""
        path = self.runtime / "control"
        return control.call(path, f"io.prefork.sd.{method}", parameters, timeout=BOUND)

    def status(self) -> dict[str, Any]:
        return self.call("Status")

    def workers(self, state: str = "ready") -> list[int]:
        """The pids of the workers in that state, the oldest first."""
        found = [worker for worker in self.status()["workers"] if worker["state"] == state]
        return [worker["pid"] for worker in sorted(found, key=lambda worker: worker["age"])]

    def run(self, *arguments: str) -> Program:
        """Start a program of ours beside it: `prefork-sd ARGUMENTS`."""
        output, write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        pid = _spawn((*PREFORK_SD, *arguments), self._environment(), write_end, ())
        os.close(write_end)
        self._programs.append(Program(pid, output))
        return self._programs[-1]

    def done(self, program: Program, within: float = BOUND) -> Program:
        """Wait for its end."""
        self.wait(lambda: program.ended(), "the end of a program", within, program.output)
        return program

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
        self.gate.close()
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

    def gone(self, pid: int, within: float = BOUND) -> None:
        """Wait for the end of a process, whosever child it is."""
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                self.wait(lambda: _readable(fd), f"the end of {pid}", within, fd)
            finally:
                os.close(fd)

    def clean(self) -> None:
        """Whatever is left, without a word."""
        for pid in [*self.processes(), *(one.pid for one in self._programs if one.status is None)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        proc.reap()
        for client in self._clients:
            client.close()
        for _, sock in self.listeners:
            sock.close()
        for _, fd in self.store:
            os.close(fd)
        self._notify.close()


def _spawn(command: tuple[str, ...], environ: dict[str, str], log: int, fds: Any) -> int:
    """Run a command in a session of its own, with `fds` as its descriptors from 3 on."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (*fds, log)]
    places = [*range(FIRST_FD, FIRST_FD + len(fds)), 2]
    actions = [(os.POSIX_SPAWN_DUP2, fd, place) for fd, place in zip(high, places, strict=True)]
    actions.append((os.POSIX_SPAWN_DUP2, high[-1], 1))
    argv = ["/bin/sh", "-c", AS_SYSTEMD, "sh", *command]
    try:
        return os.posix_spawn("/bin/sh", argv, environ, file_actions=actions, setsid=True)
    finally:
        for fd in high:
            os.close(fd)


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _fits(record: Record, event: str, text: str, fields: dict[str, object]) -> bool:
    return (
        (not event or record.get("PREFORK_SD_EVENT") == event)
        and text in record["message"]
        and all(record.get(name) == value for name, value in fields.items())
    )
