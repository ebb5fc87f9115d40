"""Without systemd: the service opens its listeners itself, and logs to whom it may concern."""

from signal import SIGKILL, SIGTERM, Signals

import pytest

from prefork_sd.errors import ExitCode
from tests.process.client import Client
from tests.process.systemd import Systemd


def test_own_listeners_are_there_while_the_service_is(systemd: Systemd) -> None:
    path = systemd.folder / "own.sock"
    systemd.up(bind=[f"unix:{path}"], workers=2)
    client = Client.at(path)
    assert client.get().version == "1"
    client.close()
    assert systemd.stop() == 0
    assert not path.exists()


def test_a_stop_refuses_new_clients_of_an_own_listener(systemd: Systemd) -> None:
    path = systemd.folder / "own.sock"
    systemd.up(bind=[f"unix:{path}"], workers=1)
    client = Client.at(path).send("/wait", close=True)
    inside = systemd.knock("request")
    systemd.kill(SIGTERM)
    systemd.expect("STOPPING=1")
    with pytest.raises(OSError):  # noqa: PT011 (no such file, or nobody listens)
        Client.at(path)
    inside.release()
    assert client.answer().version == "1"
    client.close()
    assert systemd.ended() == 0


def start_again(systemd: Systemd, bind: str) -> None:
    """After its end: with what it gave to keep."""
    systemd.status_code = None
    systemd.up(bind=bind, workers=1)


@pytest.mark.parametrize("signum", [SIGTERM, SIGKILL])
def test_a_client_waits_for_a_restart(systemd: Systemd, signum: Signals) -> None:
    bind = f"unix:{systemd.folder}/own.sock"
    systemd.environ["FDSTORE"] = "16"
    systemd.up(bind=bind, workers=1)
    systemd.stop(signum)
    systemd.wait_for_processes()
    client = Client.at(systemd.folder / "own.sock").send("/", close=True)
    start_again(systemd, bind)
    assert client.answer().version == "1"
    client.close()
    assert not systemd.all_records(level="warn")
    assert not systemd.said("FDSTOREREMOVE=1")


def test_a_listener_that_is_not_wanted_any_more_is_closed(systemd: Systemd) -> None:
    old, new = (f"unix:{systemd.folder}/{name}.sock" for name in ("old", "new"))
    systemd.environ["FDSTORE"] = "16"
    systemd.up(bind=old, workers=1)
    assert systemd.stop() == 0
    start_again(systemd, new)
    (forgotten,) = systemd.said("FDSTOREREMOVE=1")
    assert forgotten.fields["FDNAME"].startswith("own-http-unix_")
    assert forgotten.fields["FDNAME"].endswith("old.sock")
    assert systemd.status()["listeners"] == [new]


def test_a_place_where_somebody_listens_is_not_taken(systemd: Systemd) -> None:
    other = systemd.listen(path="taken.sock")
    systemd.listeners.clear()
    systemd.start(bind=[f"unix:{systemd.folder / 'taken.sock'}"])
    assert systemd.ended() == ExitCode.CONFIG
    assert "taken.sock" in systemd.said("STATUS")[-1].fields["STATUS"]
    other.close()


def test_a_service_without_a_notify_socket(systemd: Systemd) -> None:
    systemd.environ["NOTIFY_SOCKET"] = ""
    systemd.start(workers=1)
    systemd.record("ready")
    assert systemd.get().version == "1"
    systemd.deploy("2")
    assert systemd.reload().status == 0
    assert systemd.get().version == "2"
    assert systemd.stop() == 0
    assert systemd.messages == []


def test_serve_takes_its_settings_from_the_command_line(systemd: Systemd) -> None:
    path = systemd.folder / "own.sock"
    systemd.deploy()
    systemd.start_command(
        "serve", "app:application", f"--bind=unix:{path}", f"--directory={systemd.site}",
        "--workers=3", "--env=COLOR=green",
    )  # fmt: skip
    systemd.expect("READY=1", "STATUS=serving: 3 of 3")
    client = Client.at(path)
    assert '"COLOR": "green"' in client.get("/environment").text
    client.close()
