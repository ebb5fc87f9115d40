"""The Debian package as a packager sees it: what it holds, how it comes and goes."""

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from prefork_sd import __version__
from tests.system.chroot import in_chroot
from tests.system.conftest import install, listing, packaging
from tests.system.machine import Machine
from tests.system.service import Service

TOP = Path(__file__).parents[2]
MODULES = "/usr/lib/python3/dist-packages/prefork_sd"
GENERATOR = "/usr/lib/systemd/system-generators/prefork-sd-generator"


def dpkg_deb(option: str, deb: Path) -> str:
    done = subprocess.run(
        ["dpkg-deb", option, str(deb)], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    return done.stdout


def test_its_version_is_the_program_s(deb: Path) -> None:
    assert deb.name == f"prefork-sd_{__version__}_all.deb"


def test_it_holds_every_module_and_template(deb: Path) -> None:
    paths = {
        line.split()[-1].removeprefix(".") for line in dpkg_deb("--contents", deb).splitlines()
    }
    sources = {
        f"{MODULES}/{path.relative_to(TOP / 'prefork_sd')}"
        for path in (TOP / "prefork_sd").rglob("*.py")
    }
    templates = {f"{MODULES}/templates/{path.name}" for path in (TOP / "systemd").glob("*.in")}
    assert templates
    assert sources | templates <= paths
    assert {"/usr/bin/prefork-sd", GENERATOR, "/etc/prefork-sd/"} <= paths


def test_the_same_tree_gives_the_same_bytes(deb: Path, tmp_path: Path) -> None:
    again = Path(packaging("build", str(tmp_path)))
    assert sha256(again.read_bytes()).hexdigest() == sha256(deb.read_bytes()).hexdigest()


# Every path but what dpkg, apt and the logs keep: kind, mode, owner, target, and text in /etc.
SNAPSHOT = r"""
snapshot() {
    find / -xdev '(' -path /proc -o -path /dev -o -path /shared -o -path /var/lib/dpkg \
        -o -path /var/cache -o -path /var/log -o -path /tmp ')' -prune -o \
        -printf '%p\t%y %m %U:%G %l\n' | sort
    find /etc -type f -exec sha256sum {} + | sed -E 's/^([0-9a-f]+) +(.*)/text of \2\t\1/' | sort
}
"""
THERE_AND_BACK = f"""
{SNAPSHOT}
scripts=/var/lib/dpkg/info/prefork-sd
snapshot >/shared/before
for package in old old new; do dpkg --install /shared/$package.deb; done
snapshot >/shared/during
for argument in 'configure 0.0.1' 'configure' 'triggered /usr/lib/prefork-sd/services'; do
    $scripts.postinst $argument
    $scripts.postinst $argument
done
cp $scripts.prerm $scripts.postrm /tmp
$scripts.prerm remove
dpkg --remove prefork-sd
dpkg --install /shared/old.deb
dpkg --purge prefork-sd
for argument in remove purge purge; do /tmp/prefork-sd.postrm $argument; done
snapshot >/shared/after
"""


def unit_files(machine: Machine) -> str:
    return machine.run("systemctl list-unit-files --no-legend").out


def test_it_comes_and_goes_without_a_trace(bare_machine: Machine, deb: Path) -> None:
    before, units = listing(bare_machine), unit_files(bare_machine)
    for _ in range(2):
        install(bare_machine, deb)
    assert bare_machine.run("prefork-sd --version").out.strip() == f"prefork-sd {__version__}"
    compiled = bare_machine.run(f"ls {MODULES}/__pycache__").out
    assert "arbiter.cpython" in compiled
    assert bare_machine.run("journalctl --list-catalog | grep -c prefork-sd").out != "0\n"
    bare_machine.run("apt-get purge -q -y prefork-sd")
    assert listing(bare_machine) - before == set()
    assert unit_files(bare_machine) == units
    assert bare_machine.run("systemctl is-system-running").out == "running\n"


def test_a_chroot_is_as_it_was_after_a_purge(
    bare_machine: Machine, deb: Path, newer_deb: Path, tmp_path: Path
) -> None:
    for source, name in ((deb, "old.deb"), (newer_deb, "new.deb")):
        shutil.copy(source, tmp_path / name)
    in_chroot(bare_machine.tree, THERE_AND_BACK, tmp_path)
    before, during, after = (
        dict(line.split("\t") for line in (tmp_path / name).read_text().splitlines())
        for name in ("before", "during", "after")
    )
    assert {"/usr/bin/prefork-sd", "/etc/prefork-sd"} <= during.keys() - before.keys()
    assert {
        path: after.get(path) for path in before | after if before.get(path) != after.get(path)
    } == {}


def test_what_belongs_to_services_and_people_is_kept(machine: Machine, deb: Path) -> None:
    service = Service(machine, "kept")
    service.systemctl("start")
    machine.write(f"{service.state}/data", "of the service")
    machine.run("apt-get purge -q -y prefork-sd")
    install(machine, deb)
    assert machine.read(f"{service.state}/data") == "of the service"
    service.systemctl("start")
    assert service.get().split()[0] == "1"
    service.remove()


def test_removal_stops_the_services_that_nothing_could_stop_later(machine: Machine) -> None:
    machine.write("/srv/gone/app.py", "def app(environ, start_response):\n    raise SystemExit\n")
    machine.write("/etc/prefork-sd/gone.yaml", "app: app:app\ndirectory: /srv/gone\nworkers: 1\n")
    only_tls = "app: app:app\ntls_bind: 127.0.0.1:8443\ntls_certificate: /etc/later.pem\n"
    machine.write("/etc/prefork-sd/tls.yaml", only_tls)
    machine.run("systemctl daemon-reload && systemctl start gone tls-tls.socket")
    assert machine.show("tls-tls.socket", "ActiveState") == "active"
    machine.run("apt-get remove -q -y prefork-sd")
    assert machine.run("pgrep -f '^prefork-sd: '", check=False).out == ""
    assert machine.show("tls-tls.socket", "ActiveState") == "inactive"
    assert machine.read("/etc/prefork-sd/gone.yaml")


@pytest.fixture
def many_services(machine: Machine, deb: Path) -> Machine:
    install(machine, deb)
    for number in range(20):
        machine.write(f"/etc/prefork-sd/many{number}.yaml", "app: app:app\n")
    return machine


def test_the_generator_takes_less_than_100_ms(many_services: Machine) -> None:
    """Of the CPU: that is what is ours, however busy the machine is."""
    folders = "/tmp/normal /tmp/early /tmp/late"
    many_services.run(f"mkdir -p {folders}")
    many_services.write(
        "/root/cost.py",
        "import os, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "times = os.times()\n"
        "print(times.children_user + times.children_system)\n",
    )
    command = f"python3 /root/cost.py {GENERATOR} {folders}"
    assert min(float(many_services.run(command).out) for _ in range(5)) < 0.1
    assert many_services.run("ls /tmp/late/many*.service | wc -l").out == "20\n"
