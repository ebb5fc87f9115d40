"""The package under test and the machines it is installed on, one for each module and release."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.machine import Machine, why_not
from tests.system.service import Service

PACKAGING = Path(__file__).parents[2] / "packaging"
SUITES = ("trixie", "bookworm")


def packaging(script: str, *args: str) -> str:
    """Run one of the packaging scripts; what it prints."""
    done = subprocess.run(
        [str(PACKAGING / script), *args], stdout=subprocess.PIPE, text=True, timeout=900, check=True
    )
    return done.stdout.strip()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "app(*code, **settings): the service that a test wants")


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built from this checkout."""
    return Path(packaging("build", str(tmp_path_factory.mktemp("deb"))))


@contextmanager
def booted(tree: str) -> Iterator[Machine]:
    """A machine of one of the trees. Where none can boot, CI fails and others skip."""
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    machine = Machine(Path(packaging("trees", tree)), tree.rpartition("-")[2])
    try:
        machine.boot()
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="module", params=SUITES)
def bare_machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted machine without prefork-sd."""
    with booted(request.param) as machine:
        yield machine


@pytest.fixture(scope="module")
def machine(bare_machine: Machine, deb: Path) -> Machine:
    """A booted machine with the package installed by apt."""
    install(bare_machine, deb)
    return bare_machine


def install(machine: Machine, deb: Path) -> str:
    """Install or upgrade by apt; what apt said."""
    machine.copy(deb, f"/root/{deb.name}")
    return machine.run(f"apt-get install -q -y --reinstall /root/{deb.name} 2>&1").out


@pytest.fixture
def service(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A started service for one test; the marker `app` says what it is."""
    marker = request.node.get_closest_marker("app")
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:40]
    service = Service(machine, name, *marker.args, **marker.kwargs)
    service.systemctl("start")
    yield service
    service.remove()
