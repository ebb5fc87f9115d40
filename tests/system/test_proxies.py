"""Proxies in front, configured as docs/proxies.md says: its texts are what is tested here."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.certificates import make
from tests.system.conftest import SUITES, booted
from tests.system.machine import Done, Machine
from tests.system.service import Service
from tests.system.traffic import traffic

PAGE = (Path(__file__).parents[2] / "docs" / "proxies.md").read_text(encoding="utf-8")
HOST = "shop.example.org"
CLIENT = "127.0.0.9"  # an address that is no proxy's
TCP = "127.0.0.1:8000"
UPLOAD = 2_000_000  # bytes
PIECES, PIECE = 64, 65536

APP = """
import hashlib
from flask import request

@app.route("/who")
def who():
    return {"remote": request.remote_addr, "scheme": request.scheme, "host": request.host}

@app.route("/upload", methods=["POST"])
def upload():
    return hashlib.sha256(request.get_data()).hexdigest()

@app.route("/stream")
def stream():
    return app.response_class(bytes([n]) * %d for n in range(%d))
""" % (PIECE, PIECES)  # noqa: UP031 (braces are the code's)


def blocks(section: str, language: str) -> list[str]:
    """The texts of that language in a section of the page."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def with_tcp(text: str) -> str:
    """The text with the TCP address that its comment offers in place of the unix socket."""
    changed, count = re.subn(r"unix[:/]\S+?( fail_timeout=0)?(;?\s+# or (\S+))$", r"\3\1\2", text,
                             flags=re.MULTILINE)  # fmt: skip
    assert count == 1
    return changed


@dataclass(frozen=True)
class Front:
    """A proxy with its configuration, and the settings of the service behind it."""

    unit: str
    file: str
    text: str
    settings: dict[str, Any] = field(default_factory=dict)
    passes_tls: bool = False  # it does not speak HTTP, so it cannot speak TLS for us

    def put(self, machine: Machine) -> None:
        """Install the text where the page says, and start the proxy with it."""
        machine.run(f"test -e {self.file}.debian || cp {self.file} {self.file}.debian")
        above = machine.read(f"{self.file}.debian") if self.unit == "haproxy" else ""
        machine.write(self.file, f"{above}\n{self.text}")
        machine.run(f"systemctl restart {self.unit}")


def settings(section: str, number: int) -> dict[str, Any]:
    """The settings in one of a section's YAML blocks."""
    found: dict[str, Any] = yaml.safe_load(blocks(section, "yaml")[number])
    return found


NGINX, HAPROXY = "/etc/nginx/sites-available/shop", "/etc/haproxy/haproxy.cfg"
CADDY = "/etc/caddy/Caddyfile"
BY_TCP = {"bind": TCP}
LOCAL = "{\n\tlocal_certs\n}\n"  # no authority of the internet can be asked in here
SERVER = "    server shop 127.0.0.1:8000\n"


def fronts() -> dict[str, Front]:
    """Each documented way, by its name."""
    site, names = blocks("nginx", "nginx")[0], LOCAL + blocks("Caddy", "caddyfile")[0]
    http, server, protocol = blocks("HAProxy", "haproxy")
    assert SERVER in http
    unix = http.replace(SERVER, server)
    return {
        "nginx-unix": Front("nginx", NGINX, site),
        "nginx-tcp": Front("nginx", NGINX, with_tcp(site), BY_TCP),
        "haproxy-unix": Front("haproxy", HAPROXY, unix, settings("HAProxy", 0)),
        "haproxy-tcp": Front("haproxy", HAPROXY, http, BY_TCP),
        "haproxy-protocol": Front("haproxy", HAPROXY, protocol, settings("HAProxy", 1), True),
        "caddy-unix": Front("caddy", CADDY, names),
        "caddy-tcp": Front("caddy", CADDY, with_tcp(names), BY_TCP),
    }


FRONTS = fronts()


@pytest.fixture(scope="module", params=[f"proxies-{suite}" for suite in SUITES])
def bare_machine(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Machine]:
    """A machine with the proxies and a certificate where the page has it."""
    with booted(request.param) as machine:
        pair = make(tmp_path_factory.mktemp("tls"), "shop", san=f"DNS:{HOST}")
        certificate, key = pair.certificate.read_text(), pair.key.read_text()
        machine.write("/etc/ssl/certs/shop.pem", certificate)
        machine.write("/etc/ssl/private/shop.key", key)
        machine.write("/etc/haproxy/shop.pem", certificate + key)
        machine.run("echo '127.0.0.1 localhost' >>/etc/hosts")  # as an installed Debian has
        machine.run(f"touch {NGINX} && ln -sf {NGINX} /etc/nginx/sites-enabled/default")
        yield machine


class Site:
    """The service shop, as a client of the proxy sees it."""

    def __init__(self, machine: Machine, front: Front) -> None:
        self.machine, self.front = machine, front
        self.service = Service(machine, "shop", APP, **front.settings)
        self.service.systemctl("start")
        front.put(machine)

    @property
    def https(self) -> bool:
        return not self.front.passes_tls

    @property
    def url(self) -> str:
        return f"{'https' if self.https else 'http'}://{HOST}"

    def get(self, path: str, *options: str) -> Done:
        port = 443 if self.https else 80
        where = ("--resolve", f"{HOST}:{port}:127.0.0.1", "--interface", CLIENT, "--insecure")
        return self.machine.curl(f"{self.url}{path}", "--fail", *where, *options)

    def remove(self) -> None:
        self.machine.run(f"systemctl stop {self.front.unit}")
        self.service.remove()


@pytest.fixture(scope="module", params=FRONTS)
def site(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(machine, FRONTS[request.param])
    yield site
    site.remove()


def test_the_app_sees_the_client_and_not_the_proxy(site: Site) -> None:
    seen = json.loads(site.get("/who").out)
    scheme = "https" if site.https else "http"
    assert seen == {"remote": CLIENT, "scheme": scheme, "host": HOST}


def test_what_a_client_claims_is_not_believed(site: Site) -> None:
    claims = ("-H", "X-Forwarded-For: 6.6.6.6", "-H", "Forwarded: for=6.6.6.6;proto=https")
    assert json.loads(site.get("/who", *claims).out)["remote"] == CLIENT


def test_an_upload_arrives_whole(site: Site) -> None:
    site.machine.run(f"head -c {UPLOAD} /dev/urandom >/root/upload")
    wanted = site.machine.run("sha256sum /root/upload").out.split()[0]
    post = ("--request", "POST", "--header", "Content-Type: application/octet-stream")
    got = site.get("/upload", *post, "--data-binary", "@/root/upload").out
    assert got == wanted


def test_a_streamed_answer_arrives_whole(site: Site) -> None:
    site.get("/stream", "--output", "/root/stream")
    got = site.machine.run("sha256sum /root/stream").out.split()[0]
    whole = b"".join(bytes([number]) * PIECE for number in range(PIECES))
    assert got == hashlib.sha256(whole).hexdigest()


def test_check_has_nothing_against_it(site: Site) -> None:
    assert site.machine.run("prefork-sd check shop").err == ""


def test_check_says_what_the_proxy_would_meet(site: Site) -> None:
    """Without the settings that the page has for it; nginx and Caddy need none."""
    site.service.settings = {"app": "app:app", "directory": "/srv/shop"}
    site.service.configure()
    told = site.machine.run("prefork-sd check shop").err
    site.service.settings |= site.front.settings
    site.service.configure()
    said = "HAProxy (haproxy) may not connect to /run/prefork-sd/shop.sock"
    assert (said in told) == (site.front.unit == "haproxy")


def test_one_connection_serves_many_requests(site: Site) -> None:
    done = site.get(
        "/", "--include", "--write-out", "\\nconnects: %{num_connects}\\n", f"{site.url}/"
    )
    assert re.findall(r"^connects: (.*)$", done.out, re.MULTILINE) == ["1", "0"], done.out


@pytest.mark.parametrize("keepalive", [False, True], ids=["close", "keep-alive"])
def test_a_reload_and_a_restart_lose_nothing(site: Site, keepalive: bool) -> None:
    port = 443 if site.https else 80
    orders = {"port": port, "tls": site.https, "name": HOST, "clients": 8, "pause": 0.01}
    with traffic(site.machine, **orders, keepalive=keepalive) as load:
        for number in ("2", "3"):
            site.service.deploy(site.service.version(number))
            site.service.systemctl("reload")
        site.service.systemctl("restart")
        load.end()
    assert load.requests
    assert load.failures == []
    assert site.get("/").out.split()[0] == "3"
    site.service.deploy(site.service.version("1"))
