"""What monitoring hears on the status socket, and what prefork-sd status says."""

import http.client
import json
import os
import socket
from signal import SIGKILL, SIGTERM

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.process.client import Client
from tests.process.systemd import Systemd


@pytest.fixture
def shop(systemd: Systemd) -> Systemd:
    """A service whose second listener is the status socket."""
    systemd.listen()
    systemd.listen("status")
    return systemd


def ask(shop: Systemd, path: str = "/") -> None:
    """A request that is over."""
    with socket.create_connection(shop.listeners[0][1].getsockname(), timeout=10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        while sock.recv(65536):
            pass


def metrics(shop: Systemd) -> dict[tuple[str, str], float]:
    """Every sample by its name and its labels, as Prometheus reads them."""
    answer = shop.client(1).get("/metrics")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def counted(shop: Systemd, requests: int) -> dict[tuple[str, str], float]:
    """The samples when so many requests are in them: a worker counts at the end of a turn."""
    for _ in range(1000):
        found = metrics(shop)
        if found["prefork_sd_http_request_duration_seconds_count", ""] >= requests:
            return found
    pytest.fail(f"{requests} requests were not counted")


def test_requests_are_counted_by_class_and_time(shop: Systemd) -> None:
    shop.up()
    for path in ("/", "/", "/raise"):
        ask(shop, path)
    found = counted(shop, 3)
    assert found["prefork_sd_http_requests_total", "2xx"] == 2
    assert found["prefork_sd_http_requests_total", "5xx"] == 1
    assert found["prefork_sd_http_request_duration_seconds_count", ""] == 3
    assert found["prefork_sd_http_request_duration_seconds_bucket", "+Inf"] == 3
    assert found["prefork_sd_workers", "ready"] == found["prefork_sd_workers_wanted", ""] == 2


def test_reloads_and_ends_are_counted(shop: Systemd) -> None:
    shop.up()
    assert shop.reload().status == 0
    shop.deploy("2", "raise ValueError('no')")
    assert shop.reload().status == 1
    shop.deploy("3")
    os.kill(shop.workers()[0], SIGKILL)
    shop.record(event="worker-killed")
    found = metrics(shop)
    assert found["prefork_sd_reloads_total", "done"] == 1
    assert found["prefork_sd_reloads_total", "failed"] == 1
    assert found["prefork_sd_worker_exits_total", "killed"] == 1
    assert found["prefork_sd_generation", ""] == 2


def test_counters_survive_a_restart(shop: Systemd) -> None:
    shop.up()
    ask(shop)
    assert shop.stop() == 0
    shop.again()
    ask(shop)
    assert counted(shop, 2)["prefork_sd_http_requests_total", "2xx"] == 2


def test_counters_survive_a_crash(shop: Systemd) -> None:
    shop.up()
    ask(shop)
    shop.kill(SIGKILL)
    assert shop.ended() == -SIGKILL
    shop.wait_for_processes()
    shop.again()
    assert metrics(shop)["prefork_sd_http_requests_total", "2xx"] == 1


def test_health_is_that_of_the_service(shop: Systemd) -> None:
    shop.up()
    answer = shop.client(1).get("/healthz")
    assert (answer.status, answer.text[:8]) == (200, "serving:")
    waiting = shop.client().send("/wait")
    visitor = shop.knock("request")
    shop.kill(SIGTERM)
    shop.expect("STOPPING=1")
    answer = shop.client(1).get("/healthz")
    assert (answer.status, answer.text[:9]) == (503, "stopping:")
    visitor.release()
    assert waiting.answer().status == 200
    assert shop.ended() == 0


def test_a_booting_service_is_not_ready(shop: Systemd) -> None:
    shop.deploy("1", "knock('boot')")
    shop.start(workers=1)
    visitor = shop.knock("boot")
    answer = shop.client(1).get("/healthz")
    assert (answer.status, answer.text[:8]) == (503, "booting:")
    visitor.release()
    shop.expect("READY=1")


def test_a_client_that_says_nothing_holds_up_nobody(shop: Systemd) -> None:
    shop.up()
    silent = [shop.client(1) for _ in range(20)]  # more than are served at a time
    silent.clear()
    for client in [shop.client(1) for _ in range(3)]:
        client.close()
    assert shop.get().status == 200
    assert shop.reload().status == 0


def test_other_paths_and_methods(shop: Systemd) -> None:
    shop.up()
    assert shop.client(1).get("/").status == 404
    host, port = shop.listeners[1][1].getsockname()
    asked = http.client.HTTPConnection(host, port, timeout=10)
    asked.request("POST", "/metrics", body=b"x")
    assert asked.getresponse().status == 405
    asked.close()


def test_the_app_is_not_on_the_status_socket(shop: Systemd) -> None:
    shop.up()
    assert b"1 " not in shop.client(1).get("/").body
    assert isinstance(shop.client(1), Client)


def test_prefork_sd_status(shop: Systemd) -> None:
    shop.up()
    ask(shop)
    shown = shop.done(shop.run("status", str(shop.yaml)))
    assert shown.status == 0
    assert "serving: 2 of 2 workers ready" in shown.text
    told = json.loads(shop.done(shop.run("status", "--json", str(shop.yaml))).text)
    assert told["requests"] == 1
    assert [worker["state"] for worker in told["workers"]] == ["ready", "ready"]
    assert all(worker["rss"] > 1 << 20 for worker in told["workers"])


def test_the_memory_that_workers_of_a_mold_share_counts_in_parts(shop: Systemd) -> None:
    shop.deploy(more='HELD = b"x" * (64 << 20)')
    shop.up(workers=3, preload_app=True)
    told = json.loads(shop.done(shop.run("status", "--json", str(shop.yaml))).text)
    for worker in told["workers"]:
        assert worker["rss"] > 64 << 20
        assert 1 << 20 < worker["pss"] < 32 << 20
    shown = shop.done(shop.run("status", str(shop.yaml))).text.splitlines()
    assert {"RSS", "PSS"} < set(shown[3].split())
