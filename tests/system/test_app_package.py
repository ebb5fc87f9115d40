"""packaging/example-app: the package of an app is built, installed, upgraded, broken, removed."""

import re
import shutil
from pathlib import Path

import pytest

from tests.system.chroot import in_chroot
from tests.system.conftest import install, listing, packaging
from tests.system.machine import CommandError, Done, Machine
from tests.system.traffic import traffic

EXAMPLE = Path(__file__).parents[2] / "packaging" / "example-app"
YAML = EXAMPLE / "debian" / "hello-web.prefork-sd.yaml"
SOCKET = "/run/prefork-sd/hello-web.sock"
BUILD = "cd {} && dpkg-checkbuilddeps && dpkg-buildpackage --no-sign --build=binary >log 2>&1"
READY = "dpkg --install /srv/depends/*.deb /shared/prefork-sd.deb >/dev/null"


def version(folder: Path, number: str, code: str = "") -> Path:
    """The source package as a later version, perhaps with more code; its folder."""
    source = folder / f"hello-web-{number}"
    shutil.copytree(EXAMPLE, source)
    changelog = source / "debian" / "changelog"
    changelog.write_text(changelog.read_text().replace("(1.0)", f"({number})"))
    app = source / "hello.py"
    app.write_text(app.read_text().replace('"1.0"', f'"{number}"') + code)
    return source


def build(suite: str, deb: Path, *sources: Path) -> Done:
    """Build them in a clean tree that has prefork-sd; the .deb files appear beside them."""
    folder = sources[0].parent
    shutil.copy(deb, folder / "prefork-sd.deb")
    steps = [READY, *(BUILD.format(f"/shared/{source.name}") for source in sources)]
    return in_chroot(Path(packaging("trees", f"build-{suite}")), "\n".join(steps), folder)


@pytest.fixture(scope="module")
def debs(machine: Machine, deb: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Versions of the example, by number; 2.1 cannot be imported."""
    folder = tmp_path_factory.mktemp("example")
    versions = {"1.0": "", "2.0": "", "2.1": "\nfrom flask import Flsk\n", "2.2": ""}
    build(machine.suite, deb, *(version(folder, *pair) for pair in versions.items()))
    return {number: folder / f"hello-web_{number}_all.deb" for number in versions}


def dpkg(machine: Machine, deb: Path) -> str:
    """Install or upgrade without apt, which takes its time; the words of both outputs."""
    machine.copy(deb, f"/root/{deb.name}")
    return machine.run(f"dpkg --install /root/{deb.name} 2>&1").out


def page(machine: Machine) -> str:
    return machine.curl("http://hello/", "--unix-socket", SOCKET).out


def purge(machine: Machine) -> None:
    machine.run("dpkg --purge hello-web && rm -f /etc/prefork-sd/hello-web.yaml")
    machine.run("systemctl daemon-reload && systemctl reset-failed")


@pytest.fixture
def installed(machine: Machine, debs: dict[str, Path]) -> str:
    """Version 1.0, freshly installed; the words of dpkg."""
    purge(machine)
    return dpkg(machine, debs["1.0"])


def test_it_takes_fewer_than_ten_lines() -> None:
    control = (EXAMPLE / "debian" / "control").read_text().splitlines()
    ours = [line for line in control if "prefork-sd" in line and "@" not in line]
    assert ours == [" dh-sequence-prefork-sd,"]
    assert len(ours) + len(YAML.read_text().splitlines()) < 10
    assert "prefork" not in (EXAMPLE / "debian" / "rules").read_text()


def test_an_installation_starts_the_service(machine: Machine, installed: str) -> None:
    assert "hello-web: start" in installed
    assert page(machine) == "Hello, version 1.0\n"
    assert machine.show("hello-web.service", "ActiveState") == "active"
    assert "multi-user.target" in machine.show("hello-web.service", "WantedBy")


@pytest.mark.usefixtures("installed")
def test_an_upgrade_loses_nothing(machine: Machine, debs: dict[str, Path]) -> None:
    main = machine.show("hello-web.service", "MainPID")
    with traffic(machine, unix=SOCKET, clients=8, pause=0.01) as load:
        install(machine, debs["2.0"])
        upgraded = machine.clock()
        load.end()
    assert load.failures == []
    assert {request.body for request in load.requests} <= {
        f"Hello, version {number}\n" for number in ("1.0", "2.0")
    }
    after = [request.body for request in load.requests if request.began > upgraded]
    assert {*after, page(machine)} == {"Hello, version 2.0\n"}
    assert machine.show("hello-web.service", "MainPID") == main


@pytest.mark.usefixtures("installed")
def test_a_broken_upgrade_fails_with_the_reason(machine: Machine, debs: dict[str, Path]) -> None:
    with traffic(machine, unix=SOCKET, clients=8, pause=0.01) as load:
        with pytest.raises(CommandError) as failure:
            install(machine, debs["2.1"])
        assert page(machine) == "Hello, version 1.0\n"
        again = machine.run("dpkg --configure --pending 2>&1", check=False)
        assert again.status != 0
        dpkg(machine, debs["2.2"])
        assert page(machine) == "Hello, version 2.2\n"
        load.end()
    for words in (str(failure.value), again.out):
        assert 'reload failed: cannot import "hello:app": ImportError' in words
        assert 'File "/usr/share/hello-web/hello.py"' in words
        assert re.search(r"error processing package hello-web", words)
    assert load.failures == []


@pytest.mark.usefixtures("installed")
def test_a_service_that_was_stopped_stays_so(machine: Machine, debs: dict[str, Path]) -> None:
    machine.run("systemctl stop hello-web.socket hello-web.service")
    assert "hello-web: nothing is done: it has been stopped" in dpkg(machine, debs["2.0"])
    assert machine.show("hello-web.service", "ActiveState") == "inactive"


@pytest.mark.usefixtures("installed")
def test_an_upgrade_behind_an_idle_socket(machine: Machine, debs: dict[str, Path]) -> None:
    machine.run("systemctl stop hello-web.service")
    assert "nothing is done: the next connection starts it" in dpkg(machine, debs["2.0"])
    assert page(machine) == "Hello, version 2.0\n"


@pytest.mark.usefixtures("installed")
def test_removed_and_installed_again(machine: Machine, debs: dict[str, Path]) -> None:
    machine.run("dpkg --remove hello-web")
    assert machine.show("hello-web.service", "LoadState") == "not-found"
    assert machine.show("hello-web.socket", "LoadState") == "not-found"
    assert machine.run("pgrep -f '[p]refork-sd: .*hello-web'", check=False).out == ""
    assert "hello-web: start" in dpkg(machine, debs["1.0"])
    assert page(machine) == "Hello, version 1.0\n"


def test_a_purge_leaves_nothing(machine: Machine, debs: dict[str, Path]) -> None:
    purge(machine)
    before = listing(machine)
    dpkg(machine, debs["1.0"])
    machine.write("/var/lib/private/prefork-sd/hello-web/data", "of the service")
    machine.run("dpkg --purge hello-web")
    assert listing(machine) - before == set()
    assert "hello-web" not in machine.run("systemctl list-units --all").out


def test_a_first_start_that_fails_is_said(machine: Machine, debs: dict[str, Path]) -> None:
    purge(machine)
    machine.write("/etc/prefork-sd/hello-web.yaml", "app: nothing:app\n")
    said = dpkg(machine, debs["1.0"])
    assert "the start of hello-web.service failed: cannot import" in said
    machine.run("rm /etc/prefork-sd/hello-web.yaml")
    assert "hello-web: restart" in dpkg(machine, debs["2.0"])
    assert page(machine) == "Hello, version 2.0\n"


def test_the_administrator_s_policy_counts(machine: Machine, debs: dict[str, Path]) -> None:
    purge(machine)
    machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")
    machine.run("chmod 755 /usr/sbin/policy-rc.d")
    said = dpkg(machine, debs["1.0"])
    machine.run("rm /usr/sbin/policy-rc.d")
    assert "nothing is done: /usr/sbin/policy-rc.d forbids to start it" in said
    assert machine.show("hello-web.service", "ActiveState") == "inactive"


def test_an_empty_file_hides_the_service(machine: Machine, debs: dict[str, Path]) -> None:
    purge(machine)
    machine.run("touch /etc/prefork-sd/hello-web.yaml")
    said = dpkg(machine, debs["1.0"])
    assert "nothing is done: /etc/prefork-sd/hello-web.yaml masks it" in said
    assert machine.show("hello-web.service", "LoadState") == "not-found"


def test_it_comes_and_goes_without_systemd(
    machine: Machine, debs: dict[str, Path], deb: Path
) -> None:
    folder = debs["1.0"].parent
    shutil.copy(deb, folder / "prefork-sd.deb")
    steps = [
        "dpkg --install /shared/prefork-sd.deb",
        "for number in 1.0 1.0 2.0; do dpkg --install /shared/hello-web_${number}_all.deb; done",
        "test -e /usr/lib/prefork-sd/services/hello-web.yaml",
        "dpkg --purge hello-web",
        "test ! -e /usr/lib/prefork-sd/services/hello-web.yaml",
    ]
    assert "hello-web: " not in in_chroot(machine.tree, "\n".join(steps), folder).out


def test_a_wrong_setting_ends_the_build(machine: Machine, deb: Path, tmp_path: Path) -> None:
    source = version(tmp_path, "3.0")
    with (source / "debian" / YAML.name).open("a") as file:
        file.write("wrokers: 2\n")
    with pytest.raises(CommandError):
        build(machine.suite, deb, source)
    log = (source / "log").read_text()
    assert re.search(r'hello-web\.yaml:3: unknown setting "wrokers"; did you mean "workers"', log)


@pytest.mark.usefixtures("installed")
def test_server_and_app_upgraded_at_once(
    machine: Machine, debs: dict[str, Path], newer_deb: Path
) -> None:
    machine.copy(newer_deb, "/root/newer.deb")
    machine.copy(debs["2.0"], "/root/hello.deb")
    main = machine.show("hello-web.service", "MainPID")
    with traffic(machine, unix=SOCKET, clients=8, pause=0.01) as load:
        machine.run("apt-get install -q -y /root/newer.deb /root/hello.deb")
        upgraded = machine.clock()
        load.end()
    assert load.failures == []
    after = [request.body for request in load.requests if request.began > upgraded]
    assert {*after, page(machine)} == {"Hello, version 2.0\n"}
    assert machine.show("hello-web.service", "MainPID") == main
