"""Control groups below our own unit's: one for the arbiter, one for each worker (cgroups(7)).

The workers' are in a group of all workers. Whoever has the unit's group for the root of a control
group namespace (ProtectControlGroups=private) cannot watch that one's memory pressure, but this
one's (cgroup_namespaces(7), nsdelegate).

With Delegate=yes, systemd leaves what is below the unit's group to us. Where it is not to be had
(a terminal, a container, no delegation), everything here does nothing.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
ARBITER, WORKERS, WORKER = "arbiter", "workers", "worker-"
CONTROLLERS = ("memory", "pids", "cpu")
DELEGATED = ("user.delegate", "trusted.delegate")  # how systemd marks a group that it has given
PROTECTED = 64 << 20  # bytes that the arbiter keeps when memory is short: it has to act then
OMIT = "user.oomd_omit"  # systemd-oomd shall take a worker, never the arbiter


class Groups:
    """The groups of one service. `reason` says why there are none, if so."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.reason = ""
        self.memory = False  # whether the memory controller is ours to set
        self._graves: list[Path] = []  # of workers that left processes behind

    def settle(self) -> None:
        """Move this process below, into the arbiter's group, so that others can stand beside it."""
        try:
            own = own_group()
            settled = own.name == ARBITER  # before a re-exec
            root = own.parent if settled else own
            if not delegated(root):
                self.reason = "not started by systemd with Delegate=yes"
                return
            self.root = root
            if not settled:
                join(self._made(ARBITER))
            _enabled(self.root)
            self.memory = "memory" in _enabled(self._made(WORKERS))
            if self.memory:
                with suppress(OSError):
                    (self.root / ARBITER / "memory.low").write_text(str(PROTECTED))
            with suppress(OSError):
                os.setxattr(self.root / ARBITER, OMIT, b"1")
        except OSError as error:
            self.root, self.reason = None, f"{error.strerror}: {error.filename}"

    def cannot(self, memory_max: int) -> list[str]:
        """What of a configuration has no effect here, in sentences."""
        if not memory_max or self.memory:
            return []
        why = self.reason or "the memory controller is not to be had"
        return [f"worker_memory_max bounds no worker here: {why}"]

    def _made(self, *names: str) -> Path:
        assert self.root is not None
        group = self.root.joinpath(*names)
        group.mkdir(exist_ok=True)
        return group

    @property
    def pressure(self) -> Path | None:
        """Where the kernel tells how much the workers stall for want of memory, if anywhere."""
        return self.root / WORKERS / "memory.pressure" if self.root else None

    def make(self, name: str, memory_max: int = 0) -> Path | None:
        """A group for a child of ours, with its bound in bytes (0: none), or None."""
        if self.root is None:
            return None
        try:
            group = self._made(WORKERS, name)
            if self.memory and memory_max:
                (group / "memory.max").write_text(str(memory_max))
                with suppress(OSError):  # without swap accounting there is no such file
                    (group / "memory.swap.max").write_text("0")
        except OSError as error:
            self.reason = f"{error.strerror}: {error.filename}"
            return None
        return group

    def of(self, name: str) -> Path | None:
        """A group that was made before a re-exec, if there is one."""
        group = self.root / WORKERS / name if self.root else None
        return group if group and group.is_dir() else None

    def close(self, group: Path, *, by_force: bool) -> None:
        """Remove a group whose worker is gone; `by_force`: with what it has left running."""
        if by_force:
            with suppress(OSError):
                (group / "cgroup.kill").write_text("1")
        self._graves = [grave for grave in [*self._graves, group] if not removed(grave)]


def _enabled(group: Path) -> set[str]:
    """Pass on to the groups below what controllers we have; return those that are."""
    offered = set((group / "cgroup.controllers").read_text().split())
    for controller in CONTROLLERS:
        if controller in offered:
            with suppress(OSError):
                (group / "cgroup.subtree_control").write_text(f"+{controller}")
    return set((group / "cgroup.subtree_control").read_text().split())


def own_group() -> Path:
    """The directory of this process's group in the unified hierarchy. Raises OSError."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        raise FileNotFoundError(errno.ENOENT, "no unified hierarchy", "/proc/self/cgroup")
    for root in ROOTS:
        group = root / path.lstrip("/")
        if (group / "cgroup.procs").exists():
            return group
    raise FileNotFoundError(errno.ENOENT, "the group is not visible", path)


def join(group: Path) -> None:
    """Move this process into a group. Raises OSError."""
    (group / "cgroup.procs").write_text("0")


def oom_kills(group: Path) -> int:
    """How often the kernel has killed in the group for want of memory: memory.events."""
    with suppress(OSError, ValueError):
        for line in (group / "memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def removed(group: Path) -> bool:
    """Remove an empty group; False while something lives in it."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def delegated(group: Path) -> bool:
    """Whether systemd has left a group to us: Delegate= of systemd.resource-control(5)."""
    for name in DELEGATED:
        with suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False
