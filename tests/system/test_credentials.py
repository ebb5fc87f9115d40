"""Secrets that systemd hands over: LoadCredential= in the YAML, credential:NAME in `env`."""

import pytest

from tests.system.machine import Machine
from tests.system.service import Service

SECRET = """
@app.route("/secret")
def secret():
    return os.environ["SECRET"]
"""
KEY = "/etc/shop-key"


@pytest.fixture
def shop(machine: Machine) -> Service:
    machine.write(KEY, "first\n")
    machine.run(f"chmod 600 {KEY}")
    service = Service(
        machine,
        "shop",
        SECRET,
        env={"SECRET": "credential:key"},
        unit={"Service": {"LoadCredential": f"key:{KEY}"}},
    )
    service.systemctl("start")
    return service


def test_a_secret_that_only_root_may_read(shop: Service) -> None:
    assert shop.get("/secret") == "first"
    directory = f"/run/credentials/{shop.name}.service"
    assert shop.machine.run(f"ls {directory}").out == "key\n"
    shop.machine.write(KEY, "second\n")
    shop.systemctl("reload")  # before 260 systemd hands over a new one at a restart only
    assert shop.get("/secret") == "first"
    shop.systemctl("restart")
    assert shop.get("/secret") == "second"
    for record in shop.records():
        assert "second" not in record["MESSAGE"]
    shop.remove()


def test_each_generation_reads_it_afresh(shop: Service) -> None:
    """As systemd 260 replaces it at a reload, with RefreshOnReload=credentials."""
    file = f"/run/credentials/{shop.name}.service/key"
    inside = f"nsenter --target {shop.main_pid} --mount"
    shop.machine.run(
        f"{inside} sh -c 'mount -o remount,rw,bind {file.rpartition('/')[0]}"
        f" && chmod u+w {file} && echo third >{file}'"
    )
    shop.systemctl("reload")
    assert shop.get("/secret") == "third"
    shop.remove()


def test_a_credential_that_nobody_gave(shop: Service) -> None:
    shop.configure(env={"SECRET": "credential:other"})
    refused = shop.systemctl("reload", check=False)
    assert refused.status == 1
    status = shop.show("StatusText")
    assert "env.SECRET" in status
    assert "other" in status
    assert shop.get("/secret") == "first"  # the old generation serves on
    assert shop.systemctl("restart", check=False).status == 1
    assert "LoadCredential=other" in shop.show("StatusText")
    shop.remove()
