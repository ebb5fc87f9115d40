"""packaging/demo in one command: on a Debian that was just installed, and where none is booted."""

import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import TOP, copy_checkout
from tests.system.conftest import SUITES, need_machines, packaging
from tests.system.machine import Machine

SHOWN = (
    "Hello from prefork-sd, worker",
    "Active: active (running)",
    'Status: "serving: 2 of 2 workers ready, generation 1"',
    "worker [demo]",
    "ready: 2 workers",
    "Reloaded demo.service",
)


@pytest.fixture(scope="module", params=SUITES)
def fresh_machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted machine without Python, and all that the demo needs in apt's reach."""
    need_machines()
    suite: str = request.param
    machine = Machine(Path(packaging("trees", f"fresh-{suite}")), suite)
    try:
        machine.boot()
        yield machine
    finally:
        machine.stop()


def test_a_fresh_machine_shows_it(fresh_machine: Machine, tmp_path: Path) -> None:
    archive = tmp_path / "checkout.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(copy_checkout(tmp_path / "checkout"), "prefork-sd")
    assert fresh_machine.run("which python3 gcc curl", check=False).out == ""
    fresh_machine.copy(archive, "/root/checkout.tar")
    fresh_machine.run("tar -C /root -xf /root/checkout.tar")
    shown = fresh_machine.run("/root/prefork-sd/packaging/demo", timeout=500).out
    for words in SHOWN:
        assert words in shown
    assert "Hello" in fresh_machine.curl("http://127.0.0.1:8000/").out


@pytest.mark.parametrize("suite", SUITES)
def test_where_no_systemd_runs_a_tree_shows_it(suite: str, deb: Path) -> None:
    need_machines()
    script = TOP / "packaging" / "demo_container.py"
    arguments = [packaging("trees", suite), str(deb), str(TOP / "packaging" / "demo-app")]
    done = subprocess.run(
        ["/usr/bin/python3", "-B", str(script), *arguments],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(TOP)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    for words in SHOWN:
        assert words in done.stdout
