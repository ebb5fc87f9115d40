"""The generator among many YAML files, a broken one, and units that are there already."""

from collections.abc import Iterator

import pytest

from tests.system.machine import Machine
from tests.system.service import Service

GENERATOR = "/usr/lib/systemd/system-generators/prefork-sd-generator"
FOLDERS = "/tmp/normal /tmp/early /tmp/late"
COST = """
import os, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
times = os.times()
print(times.children_user + times.children_system)
"""


def cost(machine: Machine) -> float:
    """Seconds of the CPU that the generator takes: what is ours, however busy the machine is."""
    machine.run(f"rm -rf {FOLDERS}; mkdir {FOLDERS}")
    machine.write("/root/cost.py", COST)
    command = f"python3 /root/cost.py {GENERATOR} {FOLDERS}"
    return min(float(machine.run(command).out) for _ in range(5))


@pytest.fixture
def crowd(machine: Machine) -> Iterator[Machine]:
    """One service that is declared; the others that a test declares go afterwards."""
    machine.write("/etc/prefork-sd/crowd0.yaml", "app: app:app\n")
    yield machine
    machine.run("rm /etc/prefork-sd/crowd*.yaml && systemctl daemon-reload")


def test_fifty_cost_less_than_200_ms_more_than_one(crowd: Machine) -> None:
    alone = cost(crowd)
    crowd.run(
        "for n in $(seq 1 49); do "
        'printf "app: shop.wsgi:app\\nworkers: 4\\nbind: 127.0.0.1:$((9000 + n))\\n"'
        " >/etc/prefork-sd/crowd$n.yaml; done"
    )
    together = cost(crowd)
    assert crowd.run("ls /tmp/late/crowd*.service | wc -l").out == "50\n"
    assert together - alone < 0.2


def test_a_broken_file_harms_no_other(crowd: Machine) -> None:
    good = Service(crowd, "good")
    crowd.write("/etc/prefork-sd/crowd1.yaml", "app: [unclosed\n")
    crowd.write("/etc/prefork-sd/crowd2.yaml", "app: shop:app\nwrokers: 3\n")
    crowd.write("/etc/prefork-sd/crowd3 x.yaml", "app: shop:app\n")
    crowd.run(
        "mkfifo /etc/prefork-sd/crowd4.yaml && head -c 2M /dev/zero >/etc/prefork-sd/crowd5.yaml"
    )
    crowd.run("systemctl daemon-reload")
    crowd.run("journalctl --sync")
    told = crowd.journal("", "SYSLOG_IDENTIFIER=prefork-sd-generator")
    texts = [record["MESSAGE"] for record in told]
    for name, words in {
        "crowd1": ("crowd1.yaml:", "not valid YAML"),
        "crowd2": ("crowd2.yaml:2", 'did you mean "workers"'),
        "crowd3 x": ("crowd3 x.yaml", "cannot be that of a unit"),
        "crowd4": ("crowd4.yaml", "not a regular file"),
        "crowd5": ("crowd5.yaml", "larger than 1 MiB"),
    }.items():
        (text,) = [text for text in texts if text.startswith(f"{name}.service: ")]
        assert all(word in text for word in words), text
    assert {record["PRIORITY"] for record in told} == {"3"}
    good.systemctl("start")
    assert good.get().split()[0] == "1"
    crowd.run("systemctl start crowd0.socket && systemctl stop crowd0.socket")
    refused = crowd.run("systemctl start crowd2", check=False)
    assert refused.status != 0
    assert 'unknown setting "wrokers"' in crowd.show("crowd2.service", "StatusText")
    crowd.run("systemctl stop crowd2.service crowd2.socket")
    good.remove()


def test_a_real_unit_of_that_name_wins(machine: Machine) -> None:
    """As `systemctl edit --full` makes one of ours, or one that has nothing to do with us."""
    service = Service(machine, "real")
    generated = machine.run("systemctl cat real.service").out
    assert generated.startswith("# /run/systemd/generator.late/real.service\n")
    edited = generated.replace("[Service]\n", "[Service]\nEnvironment=EDITED=yes\n", 1)
    machine.write("/etc/systemd/system/real.service", edited)
    machine.run("systemctl daemon-reload")
    assert service.show("FragmentPath") == "/etc/systemd/system/real.service"
    assert service.show("Environment") == "EDITED=yes"
    service.systemctl("start")
    assert service.get().split()[0] == "1"
    service.systemctl("stop")

    machine.write(
        "/etc/systemd/system/real.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
    )
    machine.run("systemctl daemon-reload")
    service.systemctl("start")
    assert service.show("Type") == "oneshot"
    assert service.pids() == set()
    machine.run("systemctl stop real.socket real.service; rm /etc/systemd/system/real.service")
    machine.run("systemctl daemon-reload")
    assert service.show("FragmentPath") == "/run/systemd/generator.late/real.service"
    service.remove()
