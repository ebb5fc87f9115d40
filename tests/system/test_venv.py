"""Services whose apps live in virtual environments, of Debian's own Python and of another."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import NEWER, install, packaging
from tests.system.machine import Machine
from tests.system.service import Service
from tests.system.traffic import Request, traffic

CLIENTS = {"port": 8000, "clients": 8, "pause": 0.01}
LOCAL = {"workers": 3, "bind": "127.0.0.1:8000", "venv": "/srv/venvs/current"}
FLASK = ("flask", "werkzeug", "jinja2", "markupsafe", "itsdangerous", "click", "blinker")
OTHER = "/opt/python3.11/bin/python3.11"
VERSIONS = """
import importlib.metadata
import platform

@app.route("/versions")
def versions():
    return f"{platform.python_version()} {importlib.metadata.version('flask')} {sys.prefix}"
"""


def pack(folder: Path, target: Path, *names: str) -> Path:
    command = ["tar", "--create", "--file", str(target), "--directory", str(folder), *names]
    subprocess.run(command, check=True, timeout=120)
    return target


def unpack(machine: Machine, archive: Path, folder: str) -> None:
    machine.copy(archive, "/root/archive.tar")
    machine.run(f"mkdir -p {folder} && tar -x -f /root/archive.tar -C {folder}")


@pytest.fixture(scope="module")
def venvs(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two environments with the Flask of the tests: of Debian's Python, and of another.

    Debian 13 gets Debian 12's Python for that. In Debian 12 both are of its own.
    """
    folder = tmp_path_factory.mktemp("archives")
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    names = [path.name for name in FLASK for path in site.glob(f"{name}*")]
    libraries = pack(site, folder / "flask.tar", *names)
    other = "/usr/bin/python3"
    if machine.suite == "trixie":
        usr = Path(packaging("trees", "bookworm")) / "usr"
        archive = pack(usr, folder / "python.tar", "bin/python3.11", "lib/python3.11")
        unpack(machine, archive, "/opt/python3.11")
        other = OTHER
    made = []
    for python, name in (("/usr/bin/python3", "debian"), (other, "other")):
        venv = f"/srv/venvs/{name}"
        machine.run(f"{python} -m venv --without-pip {venv}")
        version = machine.run(f"ls {venv}/lib").out.strip()
        unpack(machine, libraries, f"{venv}/lib/{version}/site-packages")
        made.append(venv)
    return made


@pytest.fixture(autouse=True)
def current(venvs: list[str], machine: Machine) -> None:
    """The link that services use leads to Debian's own Python."""
    switch(machine, venvs[0])


def switch(machine: Machine, venv: str) -> None:
    machine.run(f"ln -sfn {venv} /srv/venvs/draft && mv -T /srv/venvs/draft /srv/venvs/current")


def version_of(machine: Machine, python: str) -> str:
    command = "import platform, sys; print(platform.python_version())"
    return machine.run(f'{python} -c "{command}"').out.strip()


def version(request: Request) -> int:
    return int(request.body.split()[0])


@pytest.mark.app(VERSIONS, **LOCAL)
def test_an_app_has_the_packages_of_its_venv(service: Service, venvs: list[str]) -> None:
    machine = service.machine
    own = machine.run(
        "python3 -c 'import flask, importlib.metadata as m; print(m.version(\"flask\"))'"
    )
    python, flask, prefix = service.get("/versions").split()
    assert (python, prefix) == (version_of(machine, "/usr/bin/python3"), venvs[0])
    assert flask == importlib.metadata.version("flask")
    assert flask != own.out.strip()
    switch(machine, venvs[1])
    other = version_of(machine, f"{venvs[1]}/bin/python")
    assert (
        f"Python {other} of {LOCAL['venv']}"
        in service.machine.run(f"prefork-sd check {service.name}").out
    )
    service.systemctl("reload")
    assert service.get("/versions").split() == [other, flask, venvs[1]]
    processes = machine.run("ps -e -ww -o cgroup:200=,args=").out.splitlines()
    workers = [one for one in processes if one.endswith(f" prefork-sd: worker [{service.name}]")]
    assert len(workers) == LOCAL["workers"]
    assert all("/worker-" in one for one in workers)


@pytest.mark.app(VERSIONS, **LOCAL)
@pytest.mark.parametrize("preload", [False, True], ids=["each", "preload"])
def test_a_link_that_moves_under_load_loses_nothing(
    service: Service, venvs: list[str], preload: bool
) -> None:
    service.configure(preload_app=preload)
    service.systemctl("reload")
    returned = []
    with traffic(service.machine, **CLIENTS) as load:
        for number in range(2, 10):
            switch(service.machine, venvs[number % 2 - 1])
            service.deploy(service.version(str(number)))
            service.systemctl("reload")
            returned.append((service.machine.clock(), number))
            assert service.get("/versions").split()[2] == venvs[number % 2 - 1]
        requests = load.end()
    assert load.failures == []
    for moment, number in returned:
        assert not [one for one in requests if one.began > moment and version(one) < number]


@pytest.mark.app(VERSIONS, **LOCAL)
def test_an_upgrade_loses_nothing_and_leaves_nothing(
    service: Service, venvs: list[str], newer_deb: Path
) -> None:
    machine, main = service.machine, service.main_pid
    switch(machine, venvs[1])
    service.systemctl("reload")
    with (
        machine.follow(f"{service.name}.service") as journal,
        traffic(machine, **CLIENTS) as load,
    ):
        install(machine, newer_deb)
        journal.until(lambda record: record.get("PREFORK_SD_EVENT") == "reload-done")
        load.end()
    assert load.failures == []
    assert service.main_pid == main
    status = json.loads(machine.run(f"prefork-sd status --json {service.name}").out)
    assert status["version"] == NEWER
    assert service.get("/versions").split()[2] == venvs[1]
    own = machine.run("python3 -c 'import sys; print(sys.implementation.cache_tag)'").out.strip()
    package = "/usr/lib/python3/dist-packages/prefork_sd"
    bytecode = machine.run(f"find {package} -name '*.pyc'").out.split()
    assert [path for path in bytecode if f".{own}." not in path] == []


@pytest.mark.app(**LOCAL)
def test_an_environment_whose_python_is_gone(service: Service, venvs: list[str]) -> None:
    machine, workers = service.machine, service.workers()
    machine.run(f"cp -a {venvs[0]} /srv/venvs/broken")
    machine.run("ln -sfn /usr/bin/python3.99 /srv/venvs/broken/bin/python")
    switch(machine, "/srv/venvs/broken")
    failed = service.systemctl("reload", check=False)
    assert failed.status != 0
    says = "venv: the interpreter of /srv/venvs/current is gone: bin/python leads to"
    assert service.workers() == workers
    assert service.records(MESSAGE=f"reload failed: {says}")
    assert machine.run(f"prefork-sd check {service.name}", check=False).status == 78
    machine.run(f"systemctl restart {service.name}", check=False)
    assert says in service.show("StatusText")
    switch(machine, venvs[1])
    machine.run(f"systemctl start {service.name}")
    assert service.get().split()[0] == "1"
