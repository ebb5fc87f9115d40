"""A Debian machine under real systemd, for one test module: booted from a throw-away tree.

The tree is laid under an overlay in memory and booted by systemd-nspawn(1) in a mount, PID and
control group namespace of its own, so that killing one process leaves nothing behind.
"""

import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOOT_TIMEOUT = 60.0
COMMAND_TIMEOUT = 60.0

# Runs in its own mount namespace: what is mounted here goes when its processes go.
LAUNCH = """
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
exec systemd-nspawn --quiet --register=no --keep-unit --private-network --notify-ready=yes \
    --console=pipe --boot --directory="$1/root" --machine="$3"
"""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
    "DEBIAN_FRONTEND": "noninteractive",
}


def why_not() -> str:
    """The reason why no machine can be booted here, or nothing."""
    if os.geteuid() != 0:
        return "booting a Debian tree needs root"
    if not shutil.which("systemd-nspawn"):
        return "systemd-nspawn is not installed"
    allowed = subprocess.run(
        [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "mount",
            "-t",
            "tmpfs",
            "x",
            "/mnt",
        ],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT,
    )
    if allowed.returncode:
        return f"namespaces and mounts are not allowed here: {allowed.stderr.strip()}"
    return ""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, its text output, and how long it took in seconds."""

    command: str
    status: int
    out: str
    err: str
    seconds: float


class CommandError(AssertionError):
    """A command that had to succeed did not; its output is the text."""

    def __init__(self, done: Done) -> None:
        super().__init__(f"$ {done.command}\nexit status {done.status}\n{done.out}{done.err}")


class Machine:
    """One booted machine. Times are seconds; what waits has a bound and raises TimeoutError."""

    def __init__(self, tree: Path, suite: str) -> None:
        self.tree, self.suite = tree, suite
        self._folder = Path(tempfile.mkdtemp(prefix=f"prefork-sd-{suite}-", dir="/var/tmp"))
        self._groups = [group / self._folder.name for group in _control_groups()]
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def boot(self) -> None:
        """Return when the machine's PID 1 has started everything and lo is up."""
        for group in self._groups:
            group.mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ready.bind(str(self._folder / "notify"))
            mounts = self._folder / "mounts"
            mounts.mkdir()
            enter = "".join(f"echo $$ >{shlex.quote(str(g))}/cgroup.procs; " for g in self._groups)
            # fmt: off
            argv = [
                "sh", "-c", enter + 'exec "$@"', "-",
                "setpriv", "--pdeathsig=KILL",
                "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                "sh", "-c", LAUNCH, "-", str(mounts), str(self.tree), self.suite,
            ]
            # fmt: on
            with (self._folder / "console").open("wb") as console:
                self._process = subprocess.Popen(
                    argv,
                    env=ENVIRONMENT
                    | {
                        "NOTIFY_SOCKET": str(self._folder / "notify"),
                        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            nspawn = self._await_ready(ready)
        self._leader = _init_below(nspawn)
        self.run("systemctl is-system-running --wait")
        self.run("ip link set lo up")

    def _await_ready(self, ready: socket.socket) -> int:
        """The pid of systemd-nspawn, once the machine inside says READY=1."""
        assert self._process
        inbox, gone = ready.fileno(), os.pidfd_open(self._process.pid)
        try:
            while inbox in select.select([inbox, gone], [], [], BOOT_TIMEOUT)[0]:
                message, control, _, _ = ready.recvmsg(4096, socket.CMSG_SPACE(12))
                if b"READY=1" in message.split(b"\n"):
                    return int.from_bytes(control[0][2][:4], "little")  # its struct ucred
        finally:
            os.close(gone)
        raise TimeoutError(f"the machine does not boot:\n{self.console()}")

    def stop(self) -> None:
        """Kill everything of the machine; its files go with it."""
        if self._process:
            # its child is PID 1 of the namespace: once that is reaped, all the others are gone
            for pid in _children(self._process.pid):
                os.kill(pid, signal.SIGKILL)
            self._process.wait(COMMAND_TIMEOUT)
        for group in self._groups:
            _await_empty(group)
        for group in self._groups:
            _remove_group(group)
        shutil.rmtree(self._folder)

    def console(self) -> str:
        return (self._folder / "console").read_text(errors="replace")

    def start(self, command: str, **kwargs: Any) -> subprocess.Popen[str]:
        """Start a shell command in the machine; stdin, stdout and stderr as Popen takes them."""
        enter = ["nsenter", "--target", str(self._leader), "--all", "--"]
        return subprocess.Popen([*enter, "sh", "-c", command], env=ENVIRONMENT, text=True, **kwargs)

    def run(
        self, command: str, *, check: bool = True, timeout: float = COMMAND_TIMEOUT, stdin: str = ""
    ) -> Done:
        """Run a shell command as root; it must succeed unless `check` is off."""
        began = time.monotonic()
        pipe = subprocess.PIPE
        with self.start(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise TimeoutError(f"no end within {timeout:g} s: {command}") from None
        done = Done(command, process.returncode, out, err, time.monotonic() - began)
        if check and done.status:
            raise CommandError(done)
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file whole, as an editor does: a new file renamed over the old one."""
        quoted = shlex.quote(path)
        folder = shlex.quote(str(Path(path).parent))
        self.run(f"mkdir -p {folder} && cat >{quoted}.new && mv {quoted}.new {quoted}", stdin=text)

    def read(self, path: str) -> str:
        return self.run(f"cat {shlex.quote(path)}").out

    def copy(self, source: Path, target: str) -> None:
        """Put a file of the host into the machine."""
        with (
            source.open("rb") as file,
            self.start(f"cat >{shlex.quote(target)}", stdin=file) as process,
        ):
            if process.wait(COMMAND_TIMEOUT):
                raise AssertionError(f"could not copy {source} to {target}")

    @staticmethod
    def clock() -> float:
        """The machine's monotonic clock, which is the host's."""
        return time.monotonic()

    @staticmethod
    def observe(seconds: float) -> None:
        """Let that much time pass: a span that is itself what a test measures."""
        select.select([], [], [], seconds)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit, as text."""
        return self.run(f"systemctl show --value -p {name} {unit}").out.rstrip("\n")

    def curl(self, url: str, *options: str, check: bool = True, timeout: float = 30.0) -> Done:
        words = ["curl", "-sS", "--max-time", f"{timeout:g}", *options, url]
        return self.run(shlex.join(words), check=check, timeout=timeout + 10)

    def journal(self, unit: str = "", *match: str) -> list[dict[str, Any]]:
        """The journal's records of this boot, oldest first, with every field."""
        self.run("journalctl --sync")
        words = ["journalctl", "--quiet", "--boot", "--all", "--output=json"]
        words += [f"--unit={unit}"] if unit else []
        lines = self.run(shlex.join([*words, *match])).out.splitlines()
        return [json.loads(line) for line in lines]

    @contextmanager
    def follow(self, unit: str = "") -> Iterator["Follower"]:
        """Hear each record that the journal gets from now on."""
        self.run("journalctl --sync")
        words = ["journalctl", "--quiet", "--boot", "--all", "--output=json", "--follow"]
        last = self.run("journalctl --quiet -n 1 -o json --output-fields=__CURSOR").out
        words += [f"--after-cursor={json.loads(last)['__CURSOR']}"]
        words += [f"--unit={unit}"] if unit else []
        with self.start(shlex.join(words), stdout=subprocess.PIPE) as process:
            try:
                yield Follower(process)
            finally:
                process.kill()


class Follower:
    """Records of the journal as they come in."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._file = process.stdout.fileno()
        self._rest = b""
        self.seen: list[dict[str, Any]] = []

    def until(
        self, wanted: Callable[[dict[str, Any]], object], timeout: float = 30.0
    ) -> dict[str, Any]:
        """The next record for which `wanted` is true."""
        deadline = time.monotonic() + timeout
        while record := self._next(deadline):
            if wanted(record):
                return record
        said = "\n".join(str(record.get("MESSAGE")) for record in self.seen)
        raise TimeoutError(f"not in the journal within {timeout:g} s; it had:\n{said}")

    def silence(self, seconds: float) -> list[str]:
        """What was said within this time; an empty list tells that there was silence."""
        deadline = time.monotonic() + seconds
        return [str(record["MESSAGE"]) for record in iter(lambda: self._next(deadline), {})]

    def _next(self, deadline: float) -> dict[str, Any]:
        """The next record, or an empty one at the deadline."""
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._file], [], [], left)[0]:
                return {}
            self._rest += os.read(self._file, 65536)
        line, _, self._rest = self._rest.partition(b"\n")
        record: dict[str, Any] = json.loads(line)
        self.seen.append(record)
        return record


def _control_groups() -> list[Path]:
    """The groups of this process that systemd-nspawn uses: unified, and systemd's where hybrid."""
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            groups += [
                Path(mount[4] + path)
                for mount in map(str.split, Path("/proc/self/mountinfo").read_text().splitlines())
                if mount[mount.index("-") + 1] == ("cgroup" if controllers else "cgroup2")
                and (not controllers or mount[-1].endswith(controllers))
            ]
    return groups


def _await_empty(group: Path) -> None:
    """The kernel takes the dead out of a group a moment after they are gone: cgroup.events."""
    try:
        events = os.open(group / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # of version 1, which cannot tell
        return
    poll = select.poll()
    poll.register(events, select.POLLPRI)
    deadline = time.monotonic() + COMMAND_TIMEOUT
    while b"populated 0" not in os.pread(events, 4096, 0) and time.monotonic() < deadline:
        poll.poll(1000)
    os.close(events)


def _remove_group(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        Path(folder).rmdir()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _init_below(nspawn: int) -> int:
    """PID 1 of the machine, by the number that it has out here."""
    for pid in _children(nspawn):
        status = Path(f"/proc/{pid}/status").read_text()
        if status.split("NSpid:")[1].split("\n")[0].split()[-1] == "1":
            return pid
    raise AssertionError("systemd-nspawn has no child that is PID 1 of a machine")
