"""Starts servers, each in a session of its own, reads /proc about them, and ends them for sure."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

PROC = Path("/proc")
TICK = 1 / os.sysconf("SC_CLK_TCK")
START = 20.0  # seconds that a server has to answer its first request
GLANCE = 0.02  # seconds between two attempts at that
ANSWER = 5.0  # seconds for one answer
CROWD = 10.0  # seconds for all the idle connections to open


class BenchError(Exception):
    """A server, or the load, did not do what was asked; the text is one line."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=ANSWER)


def ask(sock: socket.socket, path: str = "/hello") -> bytes:
    """Send a bare request and return what comes first; b"" if the server closed.

    Raises OSError.
    """
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return sock.recv(65536)


class Running:
    """A server that runs, pinned to a processor, until the end of a `with` block."""

    def __init__(
        self, command: Sequence[str], port: int, environ: Mapping[str, str], processor: int
    ) -> None:
        self.port = port
        self._log = TemporaryFile()  # noqa: SIM115 (closed with the server)
        # setpriv: nothing is left behind even when we are killed
        pinned = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(processor), *command]
        self._process = subprocess.Popen(
            pinned,
            env=dict(environ),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in self.tree():  # those which made a process group of their own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def wait_ready(self) -> None:
        """Wait until it answers with a 200; raise BenchError with its last words."""
        end = time.monotonic() + START
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise BenchError(f"ended with {self._process.returncode}: {self._last_words()}")
            with suppress(OSError), connect(self.port) as sock:
                answer = ask(sock)
                if answer.startswith(b"HTTP/1.1 200 "):
                    return
                raise BenchError(f"answered {answer[:40]!r}: {self._last_words()}")
            time.sleep(GLANCE)
        raise BenchError(f"did not answer in {START:g} s: {self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no output")

    def tree(self) -> list[int]:
        """The processes of its session."""
        return [pid for pid in _pids() if _session(pid) == self.pid]

    def cpu(self) -> tuple[float, float]:
        """Seconds of CPU that the tree has used so far: (user, system)."""
        user = system = 0.0
        for pid in self.tree():
            fields = _stat(pid)
            if fields:  # proc(5): utime, stime and those of the children that are gone
                user += (int(fields[11]) + int(fields[13])) * TICK
                system += (int(fields[12]) + int(fields[14])) * TICK
        return user, system

    def pss(self) -> float:
        """MiB of memory of the tree, shared pages counted in parts."""
        return sum(_number(PROC / f"{pid}/smaps_rollup", "Pss:") for pid in self.tree()) / 1024

    def switches(self) -> int:
        """Voluntary context switches of all the threads of the tree so far."""
        tasks = [task for pid in self.tree() for task in _list(PROC / f"{pid}/task")]
        return sum(_number(task / "status", "voluntary_ctxt_switches:") for task in tasks)


def _pids() -> Iterator[int]:
    return (int(one.name) for one in PROC.iterdir() if one.name.isdecimal())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat that follow the name; nothing if it is gone."""
    try:
        return (PROC / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _session(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[3]) if fields else -1


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _number(file: Path, label: str) -> int:
    """The number after a label in a file of /proc; 0 if the process is gone."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(label)), 0)


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Open so many connections, make one request on each, and leave them open."""
    opened: list[socket.socket] = []
    end = time.monotonic() + CROWD
    try:
        while len(opened) < count and time.monotonic() < end:
            try:
                sock = connect(port)
                opened.append(sock)
                ask(sock)
            except OSError:
                break
        yield opened
    finally:
        for sock in opened:
            sock.close()


def still_open(socks: Sequence[socket.socket]) -> int:
    """How many of these idle connections the server has kept."""
    count = 0
    for sock in socks:
        sock.setblocking(False)
        try:
            count += bool(sock.recv(1))
        except BlockingIOError:
            count += 1
        except OSError:
            continue
    return count
