"""The package under test and the machines it is installed on, one for each module and release."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork_sd import __version__
from tests.system.machine import Machine, why_not
from tests.system.service import Service

PACKAGING = Path(__file__).parents[2] / "packaging"
SUITES = ("trixie", "bookworm")
NEWER = "99.1"


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


@pytest.fixture(scope="session")
def newer_deb(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package with a higher version."""
    folder = tmp_path_factory.mktemp("newer")
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True, timeout=60)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {__version__}", f"Version: {NEWER}"))
    module = tree / "usr/lib/python3/dist-packages/prefork_sd/__init__.py"
    module.write_text(module.read_text().replace(__version__, NEWER))
    target = folder / f"prefork-sd_{NEWER}_all.deb"
    subprocess.run(["dpkg-deb", "--build", tree, target], check=True, timeout=60)
    return target


def need_machines() -> None:
    """Where no tree can be booted or entered, CI fails and others skip."""
    if reason := why_not():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@contextmanager
def booted(tree: str) -> Iterator[Machine]:
    """A machine of one of the trees."""
    need_machines()
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


def listing(machine: Machine) -> set[str]:
    """All files that a package could leave behind."""
    found = machine.run("find /etc /usr /var/lib /var/cache /run/prefork-sd* 2>/dev/null || true")
    ignored = ("/var/lib/dpkg", "/var/lib/apt", "/var/cache/")
    return {line for line in found.out.splitlines() if not line.startswith(ignored)}


@pytest.fixture
def service(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A started service for one test; the marker `app` says what it is."""
    marker = request.node.get_closest_marker("app")
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:40]
    service = Service(machine, name, *marker.args, **marker.kwargs)
    service.systemctl("start")
    yield service
    service.remove()
