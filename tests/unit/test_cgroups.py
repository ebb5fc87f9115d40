"""Control groups on a tree of plain files that looks like the kernel's."""

import time
from pathlib import Path
from signal import SIGKILL

import pytest

from prefork_sd import cgroups
from prefork_sd.cgroups import Groups
from tests.unit.stage import Stage


class Tree:
    """A unit's own group; what the kernel shows in each, a test writes."""

    def __init__(self, root: Path, controllers: str) -> None:
        self.root = root
        self.populate(root, controllers)

    def populate(self, group: Path, controllers: str = "") -> None:
        group.mkdir(parents=True, exist_ok=True)
        for name in ("cgroup.procs", "cgroup.kill", "memory.max", "memory.swap.max"):
            (group / name).touch()
        (group / "cgroup.controllers").write_text(controllers)
        (group / "cgroup.subtree_control").write_text(controllers)

    def read(self, name: str) -> str:
        return (self.root / name).read_text()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    tree = Tree(tmp_path / "shop.service", "memory pids\n")
    tree.populate(tree.root / "workers", "memory pids\n")
    monkeypatch.setattr(cgroups, "own_group", lambda: tree.root)
    monkeypatch.setattr(cgroups, "delegated", lambda group: group == tree.root)
    return tree


@pytest.fixture
def groups(tree: Tree) -> Groups:
    groups = Groups()
    groups.settle()
    assert groups.reason == ""
    return groups


def test_the_arbiter_moves_below_and_passes_the_controllers_on(tree: Tree, groups: Groups) -> None:
    assert tree.read("arbiter/cgroup.procs") == "0"  # the kernel's word for the writer itself
    assert "+" in tree.read("cgroup.subtree_control")
    group = groups.make("worker-1", 100 << 20)
    assert group == tree.root / "workers" / "worker-1"
    assert groups.pressure == tree.root / "workers" / "memory.pressure"


def test_a_worker_gets_its_bound_where_the_controller_is(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "_enabled", lambda group: {"memory"})
    groups = Groups()
    groups.settle()
    bounded = groups.make("worker-1", 100 << 20)
    unbounded = groups.make("worker-2")
    assert bounded is not None
    assert unbounded is not None
    assert tree.read("arbiter/memory.low") == str(64 << 20)
    assert (bounded / "memory.max").read_text() == str(100 << 20)
    assert (bounded / "memory.swap.max").read_text() == "0"
    assert not (unbounded / "memory.max").exists()


def test_without_the_controller_there_is_a_group_and_no_bound(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "_enabled", lambda group: set())
    groups = Groups()
    groups.settle()
    group = groups.make("worker-1", 100 << 20)
    assert group is not None
    assert not (group / "memory.max").exists()
    assert not (tree.root / "arbiter" / "memory.low").exists()


def test_what_a_hung_worker_left_running_is_killed(groups: Groups) -> None:
    group = groups.make("worker-1")
    assert group is not None
    (group / "cgroup.kill").touch()
    groups.close(group, by_force=True)
    assert (group / "cgroup.kill").read_text() == "1"


def test_a_group_that_is_not_empty_yet_is_removed_later(groups: Groups) -> None:
    first, second = groups.make("worker-1"), groups.make("worker-2")
    assert first is not None
    assert second is not None
    (first / "cgroup.procs").touch()  # somebody lives in it
    groups.close(first, by_force=False)
    assert first.is_dir()
    (first / "cgroup.procs").unlink()
    groups.close(second, by_force=False)
    assert not first.exists()
    assert not second.exists()


def test_a_group_that_is_not_ours_is_left_alone(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "delegated", lambda group: False)
    groups = Groups()
    groups.settle()
    assert groups.reason == "not started by systemd with Delegate=yes"
    assert groups.make("worker-1", 1 << 20) is None
    assert not (tree.root / "arbiter").exists()


def test_a_tree_that_is_read_only(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(group: Path) -> None:
        raise PermissionError(13, "Permission denied", str(group))

    monkeypatch.setattr(cgroups, "join", refuse)
    groups = Groups()
    groups.settle()
    assert groups.reason.startswith("Permission denied: ")
    assert groups.make("worker-1") is None


@pytest.mark.parametrize(
    ("events", "kills"),
    [("low 0\noom 1\noom_kill 2\noom_group_kill 0\n", 2), ("oom_kill 0\n", 0), ("", 0)],
)
def test_how_often_the_kernel_has_killed(tmp_path: Path, events: str, kills: int) -> None:
    (tmp_path / "memory.events").write_text(events)
    assert cgroups.oom_kills(tmp_path) == kills
    assert cgroups.oom_kills(tmp_path / "gone") == 0


def test_an_oom_kill_is_named_with_the_request_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    stage = Stage(tmp_path, workers=1)
    try:
        stage.start()
        (worker,) = stage.workers()
        worker.group = tmp_path / "worker-1"
        worker.group.mkdir()
        (worker.group / "memory.events").write_text("oom_kill 1\n")
        worker.tmp.begin(0, b"GET /report?secret HTTP/1.1", time.monotonic())
        stage.die(worker, signum=SIGKILL)
        stage.turn()
        (told,) = stage.journal.of("worker-oom")
    finally:
        stage.close()
    assert told.startswith(f"worker {worker.pid} was killed by the kernel for want of memory")
    assert "GET /report in hand" in told
