"""What the kernel knows of processes: proc_pid_stat(5) and its neighbors."""

import contextlib
import os
from pathlib import Path

PROC = Path("/proc")


def session(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, _, _, sid = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(sid) == leader and state not in "ZX":
                    found.append(int(entry.name))
    return sorted(found)


def title(pid: int) -> str:
    """The command line as ps(1) shows it."""
    return (PROC / str(pid) / "cmdline").read_text().replace("\0", " ").strip()


def files(pid: int) -> dict[int, str]:
    """Open descriptors and what they are: "socket:[4711]", "/memfd:name (deleted)", a path."""
    found = {}
    for entry in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found


def inode(fd: int) -> str:
    """How another process's `files` shows the socket that is our `fd`."""
    return f"socket:[{os.fstat(fd).st_ino}]"


def wakeups(pid: int) -> int:
    """How often all threads of a process have begun to wait."""
    total = 0
    for task in (PROC / str(pid) / "task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.partition(":")[2])
    return total


def state(pid: int) -> str:
    """One letter: "R" runs, "S" waits, "T" is stopped, "Z" has ended."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


def resident(pid: int) -> int:
    """Bytes of memory that it has in use: its share of what others have, too, is counted whole."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most that `resident` has been since `forget_peak`, in bytes."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Begin anew: proc_pid_clear_refs(5)."""
    (PROC / str(pid) / "clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    """A size of proc_pid_status(5), in bytes."""
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    [size] = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(size) * 1024


def children(pid: int) -> list[int]:
    """The processes that its main thread has started."""
    return [int(child) for child in (PROC / f"{pid}/task/{pid}/children").read_text().split()]


def reap() -> None:
    """Take note of the ends of orphans that became ours."""
    with contextlib.suppress(ChildProcessError):
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):
            pass
