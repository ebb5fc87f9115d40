"""TLS as a service has it: systemd's listeners, certificates that a reload renews or refuses."""

import socket
import ssl
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from signal import SIGUSR2
from typing import Any

import pytest

from tests.certificates import Pair, make
from tests.process.client import PATIENCE, Answer
from tests.process.systemd import Systemd


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make(tmp_path, "first")


class Visit:
    """One connection by TLS."""

    def __init__(
        self, address: Any, pair: Pair, context: ssl.SSLContext | None = None, **more: Any
    ) -> None:
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.settimeout(PATIENCE)
        sock.connect(address)
        self.context = context or pair.client()
        self.sock = self.context.wrap_socket(sock, server_hostname="localhost", **more)
        self._connection = HTTPConnection("service")
        self._connection.sock = self.sock

    @property
    def certificate(self) -> bytes | None:
        return self.sock.getpeercert(binary_form=True)

    def send(self, path: str) -> None:
        self._connection.request("GET", path)

    def get(self) -> Answer:
        self.send("/")
        response = self._connection.getresponse()
        return Answer(response.status, response.read(), dict(response.getheaders()))

    def close(self) -> None:
        self._connection.close()
        self.sock.close()


def where(systemd: Systemd, number: int = 0) -> Any:
    return systemd.listeners[number][1].getsockname()


def served(systemd: Systemd, pair: Pair) -> tuple[bytes | None, str]:
    """Which certificate is shown, and which release of the app answers."""
    with closing(Visit(where(systemd), pair)) as visit:
        return visit.certificate, visit.get().version


def settings(systemd: Systemd, pair: Pair) -> dict[str, Any]:
    """As `systemd.listen` opens it: at a port that is free."""
    address = "{}:{}".format(*where(systemd))
    return {"tls_bind": address, "workers": 2, **pair.settings()}


def replace(old: Pair, new: Pair) -> None:
    """Renew in place, as a client of a certificate authority does."""
    new.key.replace(old.key)
    new.certificate.replace(old.certificate)


def test_a_reload_takes_a_renewed_certificate(systemd: Systemd, pair: Pair, tmp_path: Path) -> None:
    systemd.listen("https")
    systemd.up(**settings(systemd, pair))
    before = pair.der
    old = Visit(where(systemd), pair)
    assert (old.certificate, old.get().version) == (before, "1")
    replace(pair, make(tmp_path, "second"))
    systemd.deploy("2")
    assert systemd.reload().status == 0
    assert {served(systemd, pair) for _ in range(4)} == {(pair.der, "2")}
    assert pair.der != before
    with closing(old):
        assert old.get().version == "1"
    assert not systemd.all_records("config-warning")


@pytest.mark.parametrize("preload_app", [False, True])
def test_a_broken_certificate_fails_a_reload_and_the_old_one_serves_on(
    systemd: Systemd, pair: Pair, tmp_path: Path, preload_app: bool
) -> None:
    systemd.listen("https")
    systemd.up(**settings(systemd, pair), preload_app=preload_app)
    good, other = pair.key.read_bytes(), make(tmp_path, "other")
    before = Visit(where(systemd), pair)
    before.close()
    pair.key.write_bytes(other.key.read_bytes())
    done = systemd.reload()
    reason = f"tls_key: {pair.key} does not belong to the certificate in {pair.certificate}"
    assert (done.status, done.text) == (1, f"reload failed: {reason}\n")
    assert f"the last reload failed: {reason}"[:200] in systemd.status()["status"]
    assert {served(systemd, pair) for _ in range(4)} == {(pair.der, "1")}
    pair.key.write_bytes(good)
    systemd.deploy("2")
    assert systemd.reload().status == 0
    assert served(systemd, pair) == (pair.der, "2")


def test_a_start_without_its_certificate_says_so(systemd: Systemd, pair: Pair) -> None:
    systemd.listen("https")
    pair.certificate.unlink()
    systemd.start(**settings(systemd, pair))
    assert systemd.ended() == 78
    text = f"tls_certificate: {pair.certificate} cannot be read: No such file or directory"
    assert text[:200] in systemd.said("STATUS=")[-1].fields["STATUS"]


def test_check_finds_it_first(systemd: Systemd, pair: Pair) -> None:
    systemd.listen("https")
    systemd.deploy()
    systemd.configure(**settings(systemd, pair))
    fine = systemd.done(systemd.run("check", str(systemd.yaml)))
    assert (fine.status, "fine." in fine.text) == (0, True)
    pair.key.unlink()
    done = systemd.done(systemd.run("check", str(systemd.yaml)))
    assert done.status == 78
    assert f"tls_key: {pair.key} cannot be read" in done.text
    systemd.configure(**{**settings(systemd, pair), "tls_key": "credential:key"})
    done = systemd.done(systemd.run("check", str(systemd.yaml)))
    assert done.status == 0
    assert "tls_key: credential:key is known to the running service only" in done.text


def test_a_session_goes_on_with_another_worker(systemd: Systemd, pair: Pair) -> None:
    """As the workers of a generation share the keys of their tickets."""
    systemd.listen("https")
    systemd.up(**settings(systemd, pair))
    context = pair.client()
    with closing(Visit(where(systemd), pair, context)) as first:
        pid = first.get().pid
        first.send("/wait")
        assert systemd.knock("request").pid == pid  # so that it cannot accept
        again = Visit(where(systemd), pair, context, session=first.sock.session)
        with closing(again):
            assert again.get().pid != pid
            assert again.sock.session_reused


def test_both_kinds_of_listeners(systemd: Systemd, pair: Pair) -> None:
    systemd.listen("https")
    systemd.listen("http", "plain")
    systemd.up(**settings(systemd, pair), bind=str(systemd.folder / "plain"))
    assert served(systemd, pair)[1] == "1"
    assert systemd.client(1).get().version == "1"
    assert not systemd.all_records("config-warning")


def test_without_systemd_it_listens_itself(systemd: Systemd, pair: Pair) -> None:
    own = str(systemd.folder / "own")
    systemd.deploy()
    systemd.configure(tls_bind=own, workers=1, **pair.settings())
    systemd.start_command("run", str(systemd.yaml))
    systemd.expect("READY=1")
    with closing(Visit(own, pair)) as visit:
        assert visit.get().version == "1"
    assert systemd.stop() == 0
    assert not Path(own).exists()


def test_it_survives_a_new_image(systemd: Systemd, pair: Pair) -> None:
    systemd.listen("https")
    systemd.up(**settings(systemd, pair))
    systemd.deploy("2")
    systemd.kill(SIGUSR2)
    systemd.expect("RELOADING=1")
    systemd.expect("READY=1")
    assert served(systemd, pair) == (pair.der, "2")


def test_listeners_and_settings_that_disagree(systemd: Systemd, pair: Pair) -> None:
    systemd.listen("http", "plain")
    systemd.up(tls_bind="127.0.0.1:1", workers=1, **pair.settings())
    warning = systemd.record("config-warning")["message"]
    assert warning.startswith('tls_bind names "127.0.0.1:1", which systemd did not open')


def test_tls_that_is_taken_out_of_the_file(systemd: Systemd, pair: Pair) -> None:
    systemd.listen("https")
    systemd.up(**settings(systemd, pair))
    systemd.configure(workers=2)
    done = systemd.reload()
    assert done.status == 1
    assert "tls_bind: is empty, but a socket for TLS is open" in done.text
    assert served(systemd, pair) == (pair.der, "1")
