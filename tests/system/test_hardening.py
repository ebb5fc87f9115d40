"""How well the generated unit is sealed, and that ordinary apps do not notice."""

import re
from pathlib import Path

import pytest

from tests.system.machine import Machine
from tests.system.service import Service

DOCUMENT = Path(__file__).parents[2] / "docs" / "hardening.md"
DJANGO = Path(__file__).with_name("django_site")
HIGHEST = {"bookworm": 1.5, "trixie": 1.3}  # what systemd-analyze may say of the default unit
HIGHEST_SEALED = 0.4
# what systemd 252 says it does not know yet, and does without
NEWER = {"bookworm": ("'RestartSteps'", "'RestartMaxDelaySec'", "private"), "trixie": ()}

NUMPY = """
import numpy

@app.route("/numpy")
def solve():
    found = numpy.linalg.solve(numpy.array([[2.0, 1.0], [1.0, 3.0]]), numpy.array([3.0, 5.0]))
    return ",".join(f"{one:.1f}" for one in found)
"""

HABITS = """
import ctypes, sqlite3, subprocess, tempfile, threading

COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))

@app.route("/habits")
def habits():
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    compare = COMPARE(lambda a, b: a[0] - b[0])
    ctypes.CDLL(None).qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), compare)
    subprocess.run(["/bin/true"], check=True)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")
    path = os.path.join(os.environ["STATE_DIRECTORY"], "db")
    with sqlite3.connect(path) as database:
        database.execute("create table if not exists t (n)")
        database.execute("insert into t values (1)")
        count, = database.execute("select count(*) from t").fetchone()
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()
    return f"{list(numbers)} {count}"
"""


def exposure(service: Service) -> float:
    """The overall exposure level that systemd-analyze(1) gives."""
    told = service.machine.run(f"systemd-analyze security --no-pager {service.name}.service").out
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert found
    return float(found[1])


def documented(title: str) -> str:
    """The drop-in below that title of the document."""
    section = DOCUMENT.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = re.search(r"```ini\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def drop_in(service: Service, text: str) -> None:
    """As `systemctl edit` does, and a restart."""
    machine = service.machine
    machine.write(f"/etc/systemd/system/{service.name}.service.d/test.conf", text)
    machine.run(f"systemctl daemon-reload && systemctl restart {service.name}")


@pytest.mark.app(
    bind=["127.0.0.1:8000", "unix:/run/prefork-sd/all.sock"], status_bind="127.0.0.1:9100"
)
def test_the_units_are_as_systemd_wants_them(service: Service) -> None:
    late = "/run/systemd/generator.late"
    units = service.machine.run(f"ls {late}/{service.name}*.service {late}/{service.name}*.socket")
    assert len(units.out.split()) == 3
    told = service.machine.run(f"systemd-analyze verify --man=no {' '.join(units.out.split())}")
    lines = (told.out + told.err).splitlines()
    newer = NEWER[service.machine.suite]
    assert len(lines) == len(newer)
    assert all(words in line for line, words in zip(lines, newer, strict=True))


@pytest.mark.app(NUMPY, HABITS)
def test_the_default_unit_is_well_sealed_and_the_app_works(service: Service) -> None:
    assert exposure(service) <= HIGHEST[service.machine.suite]
    assert service.get("/numpy") == "0.8,1.4"
    assert service.get("/habits") == "[1, 2, 3] 1"


def test_django_works_and_is_as_well_sealed(machine: Machine) -> None:
    for file in DJANGO.glob("*.py"):
        machine.write(f"/srv/site/{file.name}", file.read_text())
    migrate = "/usr/bin/python3 /srv/site/manage.py migrate --no-input"
    site = Service(
        machine, "site", app="wsgi:application", unit={"Service": {"ExecStartPre": migrate}}
    )
    site.systemctl("start")
    assert site.get() == "visit 1"
    assert exposure(site) <= HIGHEST[machine.suite]
    site.remove()


@pytest.mark.app(NUMPY, bind=["127.0.0.1:8000", "unix:/run/prefork-sd/sealed.sock"])
def test_the_documented_seal(service: Service) -> None:
    drop_in(service, documented("A sealed service"))
    assert exposure(service) <= HIGHEST_SEALED
    for how in ((), ("--unix-socket", "/run/prefork-sd/sealed.sock")):
        page = service.machine.curl("http://127.0.0.1:8000/numpy", "--fail", *how)
        assert page.out == "0.8,1.4"
    service.deploy(service.version("2"))
    service.systemctl("reload")
    assert service.get().split()[0] == "2"


# What an app may need: its code, what it gets without, and the line that the document names.
NEEDS = {
    "another folder": (
        "open('/srv/media/file', 'w').close()",
        "Read-only file system",
        "ReadWritePaths=/srv/media",
    ),
    "a home": ("open('/home/shop/file').close()", "denied", "ProtectHome=read-only"),
    "memory of the machine": (
        "open('/proc/meminfo').close()",
        "No such file",
        "ProcSubset=all",
    ),
    "netlink": (
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()",
        "Address family not supported",
        "RestrictAddressFamilies=AF_NETLINK",
    ),
    "priorities": ("os.nice(1)", "not permitted", "SystemCallFilter=@resources"),
    "a sandbox": (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); "
        "c.unshare(0x10000000) and (_ for _ in ()).throw(OSError(ctypes.get_errno(), "
        "os.strerror(ctypes.get_errno())))",
        "not permitted",
        "RestrictNamespaces=no",
    ),
}

NEEDY = """
@app.route("/needs/<name>")
def needs(name):
    from urllib.parse import unquote
    try:
        exec(NEEDS[name])
    except OSError as error:
        return error.strerror
    return "fine"
"""


@pytest.fixture
def needy(machine: Machine) -> Service:
    machine.run("mkdir -p /srv/media /home/shop && chmod 777 /srv/media && touch /home/shop/file")
    code = {name: need[0] for name, need in NEEDS.items()}
    service = Service(machine, "needy", f"NEEDS = {code!r}", NEEDY)
    service.systemctl("start")
    return service


def test_what_an_app_may_need_and_how_it_gets_it(needy: Service) -> None:
    paths = {name: f"/needs/{name.replace(' ', '%20')}" for name in NEEDS}
    for name, (_, refusal, line) in NEEDS.items():
        assert refusal in needy.get(paths[name]), name
        key, _, value = line.partition("=")
        assert f"`{key}: " in DOCUMENT.read_text()
        assert value.startswith("/") or value in DOCUMENT.read_text()
    drop_in(needy, "\n".join(["[Service]", *(need[2] for need in NEEDS.values())]) + "\n")
    assert {name: needy.get(path) for name, path in paths.items()} == dict.fromkeys(NEEDS, "fine")
    needy.remove()
