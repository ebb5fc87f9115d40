"""TLS under real systemd: a key that only root may read, a renewed certificate, a missing one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Pair, make
from tests.system.machine import Machine
from tests.system.service import Service

CERTIFICATE, KEY = "/etc/ssl/certs/shop.pem", "/etc/ssl/private/shop.key"
TLS: dict[str, Any] = {
    "tls_bind": "127.0.0.1:8443",
    "tls_certificate": CERTIFICATE,
    "tls_key": KEY,
    "workers": 2,
}
PAGE = "https://localhost:8443/"


def put(machine: Machine, pair: Pair, mode: str = "0600") -> None:
    """Install a pair as a client of a certificate authority does; the key with that mode."""
    machine.write(CERTIFICATE, pair.certificate.read_text())
    machine.write(KEY, pair.key.read_text())
    folder = "0700" if mode == "0600" else "0711"
    machine.run(f"chmod {mode} {KEY} && chmod {folder} /etc/ssl/private")


def get(service: Service, pair: Pair) -> str:
    """The version of the app, if it is served with that certificate."""
    service.machine.write("/root/ca.pem", pair.certificate.read_text())
    return service.machine.curl(PAGE, "--fail", "--cacert", "/root/ca.pem").out.split()[0]


@pytest.fixture
def make_shop(machine: Machine) -> Iterator[Callable[[], Service]]:
    """Makes the service when its files are in place."""
    yield lambda: Service(machine, "shop", **TLS)
    machine.run("systemctl stop shop-tls.socket shop.service")
    machine.run("rm /etc/prefork-sd/shop.yaml && systemctl daemon-reload")


@pytest.fixture
def first(tmp_path: Path) -> Pair:
    return make(tmp_path, "first")


@pytest.fixture
def second(tmp_path: Path) -> Pair:
    return make(tmp_path, "second")


def test_a_key_that_only_root_may_read(
    machine: Machine, make_shop: Callable[[], Service], first: Pair, second: Pair
) -> None:
    put(machine, first)
    service = make_shop()
    machine.run("systemctl start shop-tls.socket")  # a connection starts the service
    assert get(service, first) == "1"
    service.systemctl("start")  # returns when it is up
    assert not machine.run("ls /run/prefork-sd/shop.sock", check=False).out
    put(machine, second)
    service.deploy(service.version("2"))
    service.systemctl("reload")
    version = int(machine.run("systemctl --version").out.split()[1])
    if version >= 260:
        assert get(service, second) == "2"
    else:  # the pair stays together until a restart
        assert get(service, first) == "2"
        (warning,) = service.records(MESSAGE="is newer than the copy that is served")
        assert "a restart takes both" in warning["MESSAGE"]
    service.systemctl("restart")
    assert get(service, second) == "2"


def test_a_key_that_the_service_may_read(
    machine: Machine, make_shop: Callable[[], Service], first: Pair, second: Pair
) -> None:
    put(machine, first, "0644")
    service = make_shop()
    service.systemctl("start")
    assert get(service, first) == "1"
    put(machine, second, "0644")
    service.systemctl("reload")
    assert get(service, second) == "1"
    machine.write(KEY, first.key.read_text())
    machine.run(f"chmod 0644 {KEY}")
    done = service.systemctl("reload", check=False)
    assert done.status == 1
    assert f"tls_key: {KEY} does not belong to the certificate" in service.show("StatusText")
    assert get(service, second) == "1"


def test_a_missing_key_is_named(
    machine: Machine, make_shop: Callable[[], Service], first: Pair
) -> None:
    put(machine, first)
    machine.run(f"rm {KEY}")
    service = make_shop()
    assert service.systemctl("start", check=False).status == 1
    said = "\n".join(str(record["MESSAGE"]) for record in service.records())
    assert f"tls_key: there is no {KEY}" in said, said
    assert machine.show("shop-tls.socket", "ActiveState") == "active"
    put(machine, first)
    assert get(service, first) == "1"  # by itself
