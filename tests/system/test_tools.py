"""The first commands of somebody new, on a machine: init, import, and what check finds there."""

from collections.abc import Iterator

import pytest

from tests.system.machine import Machine
from tests.system.service import FLASK, Service

PORT = "127.0.0.1:8010"


def check(machine: Machine, name: str, status: int = 0) -> str:
    """What `prefork-sd check` says against a service; `status` is 1 where that stops it."""
    done = machine.run(f"prefork-sd check {name}", check=False)
    assert done.status == status, done.err
    return done.err


@pytest.fixture
def shop(machine: Machine) -> Iterator[Service]:
    shop = Service(machine, "shop", bind=PORT)
    yield shop
    machine.run("chmod 755 /srv/shop")
    shop.remove()


@pytest.fixture
def project(machine: Machine) -> Iterator[str]:
    """A folder with an app and nothing else, and no service yet."""
    machine.write("/srv/fresh/app.py", FLASK)
    yield "/srv/fresh"
    machine.run("systemctl stop 'fresh.*'")  # if it came that far
    machine.run("rm -rf /srv/fresh /etc/prefork-sd/fresh.yaml && systemctl daemon-reload")


def follow(machine: Machine, told: str) -> None:
    """Say the commands that were proposed, each on a line of its own."""
    steps = [line.strip() for line in told.splitlines() if line.startswith("  ")]
    assert [step.split()[0] for step in steps] == ["prefork-sd", "systemctl", "systemctl", "curl"]
    for step in steps:
        machine.run(step)


def test_from_a_folder_to_a_page(machine: Machine, project: str) -> None:
    follow(machine, machine.run(f"cd {project} && prefork-sd init").err)
    by_unix = ("--unix-socket", "/run/prefork-sd/fresh.sock")
    assert machine.curl("http://fresh/", "--fail", *by_unix).out.split()[0] == "1"
    assert check(machine, "fresh") == ""


def test_from_gunicorn_to_a_page(machine: Machine, project: str) -> None:
    machine.write(
        f"{project}/gunicorn.conf.py",
        f'bind = "{PORT}"\nworkers = 2\nstatsd_host = "localhost:8125"\n'
        "def post_fork(server, worker):\n    worker.log.warning('forked by gunicorn.conf.py')\n",
    )
    told = machine.run(f"prefork-sd import {project}/gunicorn.conf.py").err
    assert "statsd_host" in told
    follow(machine, told)
    assert machine.curl(f"http://{PORT}/", "--fail").out.split()[0] == "1"
    messages = [str(record["MESSAGE"]) for record in machine.journal("fresh.service")]
    assert messages.count("forked by gunicorn.conf.py") == 2


def test_who_is_not_root_gets_it_printed(machine: Machine, project: str) -> None:
    machine.write(f"{project}/.keep", "")
    done = machine.run(f"setpriv --reuid=65534 --clear-groups prefork-sd init {project}")
    assert f"directory: {project}\n" in done.out
    assert "As root, say:" in done.err


def test_a_service_that_is_fine(machine: Machine, shop: Service) -> None:
    assert check(machine, "shop") == ""
    shop.systemctl("start")
    assert check(machine, "shop") == ""


def test_closed_to_the_service_s_user(machine: Machine, shop: Service) -> None:
    machine.run("chmod 750 /srv/shop")
    told = check(machine, "shop", 1)
    assert "directory: /srv/shop is closed to the service's own user: mode 0750" in told
    assert shop.systemctl("start", check=False).status == 1  # it was right
    machine.run(told.split("mend: ")[1].splitlines()[0])
    assert check(machine, "shop") == ""
    shop.systemctl("start")


def test_a_user_of_one_s_own(machine: Machine, shop: Service) -> None:
    shop.configure(user="keeper")
    machine.run("systemctl daemon-reload")
    assert "user: there is no keeper" in check(machine, "shop", 1)
    machine.run("useradd --system keeper")
    assert check(machine, "shop") == ""
    machine.run("chmod 750 /srv/shop")
    assert "/srv/shop is closed to the user keeper: mode 0750" in check(machine, "shop", 1)
    machine.run("chgrp keeper /srv/shop")
    assert check(machine, "shop") == ""
    shop.systemctl("start")
    machine.run("chgrp root /srv/shop && systemctl stop shop && userdel keeper")


def test_secrets_that_are_too_secret(machine: Machine, shop: Service) -> None:
    machine.write("/etc/shop.env", "SECRET=1\n")
    machine.run("chmod 600 /etc/shop.env")
    shop.configure(env_file="/etc/shop.env")
    told = check(machine, "shop", 1)
    assert "env_file: /etc/shop.env is closed to the service's own user: mode 0600" in told
    assert shop.systemctl("start", check=False).status == 1  # it was right
    assert "unit: {Service: {EnvironmentFile: /etc/shop.env}}" in told
    shop.configure(unit={"Service": {"EnvironmentFile": "/etc/shop.env"}})
    machine.run("systemctl daemon-reload")
    assert check(machine, "shop") == ""
    shop.systemctl("restart")


def test_an_app_below_home(machine: Machine) -> None:
    machine.run("mkdir -p /home/me")
    machine.write("/home/me/shop/app.py", FLASK)
    home = Service(machine, "home", bind=PORT, directory="/home/me/shop")
    assert "/home/me/shop is hidden by ProtectHome=yes" in check(machine, "home", 1)
    assert home.systemctl("start", check=False).status == 1
    home.configure(unit={"Service": {"ProtectHome": "read-only"}})
    machine.run("systemctl daemon-reload")
    assert check(machine, "home") == ""
    home.systemctl("restart")
    home.remove()
    machine.run("rm -r /home/me")


def test_a_link_into_root_s_home(machine: Machine) -> None:
    machine.write("/root/shop/app.py", FLASK)
    machine.run("ln -s /root/shop /srv/linked-app")
    linked = Service(machine, "linked", bind=PORT, directory="/srv/linked-app")
    assert "/root/shop is hidden by ProtectHome=yes" in check(machine, "linked", 1)
    linked.remove()
    machine.run("rm -r /root/shop /srv/linked-app")


def test_a_unit_of_old_that_wins(machine: Machine, shop: Service) -> None:
    path = "/etc/systemd/system/shop.service"
    machine.write(path, "[Service]\nExecStart=/usr/bin/gunicorn app:app\n")
    machine.run("systemctl daemon-reload")
    told = check(machine, "shop", 1)
    assert f"shop.service is {path}" in told
    assert "runs: /usr/bin/gunicorn app:app" in told
    machine.run(told.split("mend: ")[1].splitlines()[0])
    assert check(machine, "shop") == ""


def test_a_unit_that_was_written_from_the_file(machine: Machine, shop: Service) -> None:
    path = "/etc/systemd/system/shop.service"
    text = machine.run("prefork-sd unit shop").out.split("# shop.socket\n")[0]
    machine.write(path, text)
    machine.run("systemctl daemon-reload")
    assert check(machine, "shop") == ""
    shop.configure(graceful_timeout=99)
    assert f"shop.service is {path}, which is not what the YAML file gives" in check(
        machine, "shop"
    )
    machine.run(f"rm {path}")


def test_a_drop_in_that_is_shorter_than_the_server(machine: Machine, shop: Service) -> None:
    folder = "/etc/systemd/system/shop.service.d"
    machine.write(f"{folder}/quick.conf", "[Service]\nTimeoutStopSec=5\n")
    machine.run("systemctl daemon-reload")
    told = check(machine, "shop")
    assert "TimeoutStopSec= is 5 s, and graceful_timeout is 30 s" in told
    assert f"{folder}/quick.conf" in told
    machine.run(f"rm -r {folder} && systemctl daemon-reload")
    assert check(machine, "shop") == ""


def test_a_new_address_needs_two_steps(machine: Machine, shop: Service) -> None:
    shop.systemctl("start")
    shop.configure(bind="127.0.0.1:8011")
    told = check(machine, "shop")
    assert "shop.socket listens on 127.0.0.1:8010, and the YAML file says 127.0.0.1:8011" in told
    assert told.count("daemon-reload") == 1
    machine.run("systemctl daemon-reload")
    told = check(machine, "shop")
    assert "does not listen on 127.0.0.1:8011 yet" in told
    machine.run(told.split("mend: ")[1].splitlines()[0])
    assert check(machine, "shop") == ""
    machine.curl("http://127.0.0.1:8011/", "--fail")


def test_a_socket_that_a_reload_does_not_open(machine: Machine, shop: Service) -> None:
    shop.systemctl("start")
    shop.configure(status_bind="127.0.0.1:8012")
    machine.run("systemctl daemon-reload && systemctl reload shop")
    told = check(machine, "shop")
    assert "inactive, though the service runs: shop-status.socket" in told
    machine.run(told.split("mend: ")[1].splitlines()[0])
    assert check(machine, "shop") == ""
    machine.curl("http://127.0.0.1:8012/metrics", "--fail")
    machine.run("systemctl stop shop-status.socket")


def test_a_directive_that_systemd_does_not_know(machine: Machine, shop: Service) -> None:
    shop.configure(unit={"Service": {"MemoryMx": "1G", "MemoryMax": "1G"}})
    machine.run("systemctl daemon-reload")
    told = check(machine, "shop")
    assert "unit.Service.MemoryMx: Unknown key" in told
    assert told.count("warning: ") == 1


def test_a_module_that_is_closed(machine: Machine, shop: Service) -> None:
    machine.run("chmod 600 /srv/shop/app.py")
    told = check(machine, "shop", 1)
    assert "error: directory: closed to the service's own user: /srv/shop/app.py" in told
    assert shop.systemctl("start", check=False).status == 1  # it was right
    machine.run(told.split("mend: ")[1].splitlines()[0])
    assert check(machine, "shop") == ""


def test_an_address_that_somebody_has(machine: Machine, shop: Service) -> None:
    other = Service(machine, "other", bind="0.0.0.0:8010")
    assert "is also an address of other (/etc/prefork-sd/other.yaml)" in check(machine, "shop")
    other.remove()
    command = "exec python3 -m http.server 8010 --bind 127.0.0.1"
    machine.run(f"systemd-run --quiet --unit=squatter sh -c '{command}'")
    machine.curl(f"http://{PORT}/", "--fail", "--retry", "9", "--retry-connrefused")
    told = check(machine, "shop", 1)
    assert "python3" in told
    assert "listens on 127.0.0.1, port 8010" in told
    assert machine.run("systemctl restart shop.socket", check=False).status == 1
    assert "error: shop.socket has failed" in check(machine, "shop", 1)
    machine.run("systemctl stop squatter && systemctl restart shop.socket")
    assert check(machine, "shop") == ""


def test_a_broken_file_exits_with_78(machine: Machine, shop: Service) -> None:
    shop.configure(wrokers=3)
    assert 'unknown setting "wrokers"' in check(machine, "shop", 78)
