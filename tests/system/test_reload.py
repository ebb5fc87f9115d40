"""Reloads under load: what is good takes over without a loss, what is bad changes nothing."""

import pytest

from tests.system.machine import Machine
from tests.system.service import Service
from tests.system.traffic import Request, percentile, traffic

CLIENTS = {"port": 8000, "clients": 8, "pause": 0.01}
LOCAL = {"workers": 4, "bind": "127.0.0.1:8000"}
# What a request may wait for a CPU while new workers import on a machine of two; seconds.
SCHEDULING = 0.01
IMPORT_MARK = """
with open(os.path.join(os.environ["STATE_DIRECTORY"], "imported"), "w") as file:
    file.write("x" * 4096)
"""


def version(request: Request) -> int:
    return int(request.body.split()[0])


@pytest.mark.app(**LOCAL)
@pytest.mark.parametrize("keepalive", [False, True], ids=["close", "keep-alive"])
def test_twenty_reloads_lose_nothing(service: Service, keepalive: bool) -> None:
    with traffic(service.machine, **CLIENTS, keepalive=keepalive, count=4000) as load:
        calm = load.end()
    returned = []
    with traffic(service.machine, **CLIENTS, keepalive=keepalive) as load:
        for number in range(2, 22):
            service.deploy(service.version(str(number)))
            service.systemctl("reload")
            returned.append((service.machine.clock(), number))
        requests = load.end()
    assert load.failures == []
    for moment, number in returned:
        later = [request for request in requests if request.began > moment]
        old = [request for request in later if version(request) < number]
        # a connection that was open before may have one last answer, with Connection: close
        assert len(old) <= (8 if keepalive else 0)
        assert all(request.previous for request in old)
    assert percentile(requests, 99) <= max(3 * percentile(calm, 99), SCHEDULING)


@pytest.mark.app(**LOCAL)
def test_a_slow_import_causes_no_stall(service: Service) -> None:
    service.deploy("import time\ntime.sleep(3)\n" + service.version("2"))
    with traffic(service.machine, **CLIENTS) as load:
        service.systemctl("reload")
        requests = load.end()
    assert load.failures == []
    assert {version(request) for request in requests[-8:]} == {2}
    assert max(request.seconds for request in requests) < 0.5


def import_error(service: Service) -> None:
    service.deploy("import nothing_of_this_name")


def syntax_error(service: Service) -> None:
    service.machine.write(service.yaml, "app: app:app\nworkers: [4\n")


def unknown_key(service: Service) -> None:
    service.configure(wrokers=4)


def hung_import(service: Service) -> None:
    service.configure(boot_timeout=1)
    service.deploy("import threading\nthreading.Event().wait()\n")


def worker_that_leaves(service: Service) -> None:
    hooks = "import os\ndef post_fork(server, worker):\n    os._exit(7)\n"
    service.machine.write(f"/srv/{service.name}/hooks.py", hooks)
    service.configure(hooks=f"/srv/{service.name}/hooks.py")


def deleted_app(service: Service) -> None:
    service.machine.run(f"rm /srv/{service.name}/app.py")


def full_disk(service: Service) -> None:
    """The state directory is a small file system of its own, and full."""
    service.machine.run(f"systemctl stop {service.name}.socket {service.name}.service")
    service.machine.run(f"mount -t tmpfs -o size=64k tmpfs {state(service)}")
    service.systemctl("start")
    service.machine.run(f"head -c 1M /dev/zero >{state(service)}/zeros", check=False)
    service.deploy(service.code + IMPORT_MARK)


def state(service: Service) -> str:
    return f"/var/lib/private/prefork-sd/{service.name}"


BAD = {
    import_error: "No module named 'nothing_of_this_name'",
    syntax_error: "yaml",
    unknown_key: 'did you mean "workers"',
    hung_import: "boot",
    worker_that_leaves: "7",
    deleted_app: "No module named 'app'",
    full_disk: "No space left on device",
}


@pytest.mark.app(**LOCAL)
@pytest.mark.parametrize(("spoil", "reason"), BAD.items(), ids=[bad.__name__ for bad in BAD])
def test_a_bad_reload_changes_nothing(service: Service, spoil: object, reason: str) -> None:
    assert callable(spoil)
    machine = service.machine
    spoil(service)
    with traffic(machine, **CLIENTS) as load:
        before = service.workers()
        reload = service.systemctl("reload", check=False)
        assert reload.status != 0
        assert service.show("ActiveState") == "active"
        assert service.workers() == before
        assert reason in service.show("StatusText")
        told = service.records(_COMM="prefork-sd", MESSAGE=reason, _TRANSPORT="stdout")
        assert told, "the client of ExecReload= did not print the reason"
        load.end()
    assert load.failures == []
    assert {version(request) for request in load.requests} == {1}

    machine.run(f"rm -f {state(service)}/zeros")
    service.deploy(service.version("2"))
    service.configure()
    service.systemctl("reload")
    assert service.get().split()[0] == "2"
    assert reason not in service.show("StatusText")


def test_a_hundred_workers(machine: Machine) -> None:
    plain = """
        import os

        VERSION = "1"

        def app(environ, start_response):
            body = f"{VERSION} {os.getpid()}".encode()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
    """
    service = Service(machine, "hundred", code=plain, workers=100, watchdog=2)
    service.systemctl("start")
    main = service.main_pid
    assert len(service.workers()) == 100
    service.deploy(service.version("2"))
    service.systemctl("reload", timeout=120)
    assert service.get().split()[0] == "2"
    assert service.main_pid == main
    assert service.show("NRestarts") == "0"
    service.remove()
