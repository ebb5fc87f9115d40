"""The decisions of `check`, one by one, from facts that are made up."""

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from prefork_sd import systemctl
from prefork_sd.checks import Finding, findings, machine
from prefork_sd.checks.access import READ, WRITE, Identity, Node, closed_files, closed_path, denied
from prefork_sd.checks.addresses import (
    Listener,
    Proxy,
    below,
    declared_twice,
    elsewhere,
    listeners,
    nginx_user,
    overlap,
    taken,
    unheard,
    unreachable,
)
from prefork_sd.checks.unitfile import Loaded, directives, hidden_finding, seconds, unit_findings
from prefork_sd.checks.venv import venv_findings
from prefork_sd.checks.verified import drafts, refused
from prefork_sd.config import Config
from prefork_sd.loader import Application
from prefork_sd.units import Hidden

NOBODY = Identity("shop")  # of a DynamicUser
SHOP = Identity("shop", 1000, frozenset({1000, 33}))


def folder(path: str, mode: int, uid: int = 0, gid: int = 0) -> Node:
    return Node(path, stat.S_IFDIR | mode, uid, gid)


def file(path: str, mode: int, uid: int = 0, gid: int = 0) -> Node:
    return Node(path, stat.S_IFREG | mode, uid, gid)


ROOT = folder("/", 0o755)
SOCKET = Node("/run/prefork-sd/shop.sock", stat.S_IFSOCK | 0o660, 0, 33)
RUN = [ROOT, folder("/run", 0o755)]


# ---- permissions


@pytest.mark.parametrize(
    ("way", "identity", "closed"),
    [
        ([ROOT, file("/a", 0o644)], NOBODY, ""),
        ([ROOT, file("/a", 0o640)], NOBODY, "/a"),
        ([ROOT, file("/a", 0o640, gid=33)], SHOP, ""),
        ([ROOT, file("/a", 0o600, uid=1000)], SHOP, ""),
        ([ROOT, file("/a", 0o044, uid=1000)], SHOP, "/a"),  # the owner's bits count for the owner
        ([ROOT, file("/a", 0o604, gid=33)], SHOP, "/a"),
        ([ROOT, folder("/h", 0o750), file("/h/a", 0o644)], NOBODY, "/h"),
        ([ROOT, folder("/h", 0o711), file("/h/a", 0o644)], NOBODY, ""),
        ([ROOT, folder("/h", 0o711)], NOBODY, "/h"),
        ([ROOT, folder("/h", 0o744)], NOBODY, "/h"),
        ([ROOT, folder("/h", 0o700)], Identity("root", 0), ""),
        ([ROOT, Node("/h", stat.S_IFDIR | 0o700, 0, 0, listed=True)], NOBODY, ""),
    ],
)
def test_who_may_read(way: list[Node], identity: Identity, closed: str) -> None:
    node = denied(way, identity, READ)
    assert (node.path if node else "") == closed


def test_a_closed_path_names_the_folder_and_the_command() -> None:
    way = [ROOT, folder("/home/me", 0o700), folder("/home/me/shop", 0o755)]
    finding = closed_path("directory", way, NOBODY)
    assert finding
    assert "/home/me on its way, mode 0700" in finding.what
    assert finding.mend == "move it out of /home/me (to /srv, say), or chmod o+x /home/me"
    assert str(finding).startswith("error: directory: /home/me/shop is closed")
    assert closed_path("directory", [ROOT, folder("/srv", 0o755)], NOBODY) is None


@pytest.mark.parametrize(
    ("key", "last", "stops"),
    [
        ("directory", folder("/srv/shop", 0o750), True),
        ("directory", folder("/srv/shop", 0o711), False),  # the app may be in a venv
        ("venv", folder("/srv/shop", 0o711), False),
        ("venv", file("/srv/shop/python", 0o711), False),  # it is executed, not read
        ("venv", file("/srv/shop/python", 0o700), True),
        ("env_file", file("/srv/shop/env", 0o711), True),
        ("pythonpath", folder("/srv/shop", 0o700), False),  # the app may be elsewhere
    ],
)
def test_what_is_closed_stops_only_what_needs_it(key: str, last: Node, stops: bool) -> None:
    finding = closed_path(key, [ROOT, folder("/srv", 0o755), last], NOBODY)
    assert finding
    assert finding.stops == stops


def test_a_file_of_secrets_need_not_be_opened_to_all() -> None:
    way = [ROOT, folder("/etc", 0o755), file("/etc/shop.env", 0o600)]
    finding = closed_path("env_file", way, NOBODY)
    assert finding
    assert "unit: {Service: {EnvironmentFile: /etc/shop.env}}" in finding.mend
    assert finding.mend.endswith("else chmod o+r /etc/shop.env")


def test_the_way_to_a_path_is_read_from_disk(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o711)
    (tmp_path / "link").symlink_to("a/b")
    (tmp_path / "a" / "b").touch(mode=0o604)
    *_, above, last = machine.way(str(tmp_path / "link"))
    assert (above.path, stat.S_IMODE(above.mode)) == (f"{tmp_path}/a", 0o711)
    assert (last.path, stat.S_IMODE(last.mode)) == (f"{tmp_path}/a/b", 0o604)
    assert machine.way(str(tmp_path / "a" / "nothing"))[-1] == above
    assert machine.exists(str(tmp_path / "link"))
    assert not machine.exists(str(tmp_path / "a" / "b" / "c"))


def test_closed_files_are_one_finding() -> None:
    nodes = [file(f"/srv/shop/{number}.py", 0o600) for number in range(5)]
    finding = closed_files("/srv/shop", [*nodes, file("/srv/shop/z.py", 0o644)], NOBODY, ())
    assert finding
    assert not finding.stops
    assert "/srv/shop/0.py" in finding.what
    assert "and 2 more" in finding.what
    assert finding.mend == "chmod -R o+rX /srv/shop"
    assert closed_files("/srv/shop", [file("/srv/shop/z.py", 0o644)], NOBODY, ()) is None


def test_a_closed_module_of_the_app_stops_it_and_comes_first() -> None:
    nodes = [file(f"/srv/shop/{number}.py", 0o600) for number in range(5)]
    finding = closed_files("/srv/shop", nodes, NOBODY, ["/srv/shop/4.py", "/srv/shop"])
    assert finding
    assert str(finding).startswith("error: ")
    assert "user: /srv/shop/4.py, /srv/shop/0.py" in finding.what


@pytest.mark.parametrize(
    ("app", "files"),
    [
        ("shop.web:app", ["shop", "shop/__init__.py", "shop/web.py"]),
        ("shop.web.app", ["shop", "shop/__init__.py", "shop/web.py"]),
        ("shop:make_app()", ["shop", "shop/__init__.py"]),
        ("single:app", ["single.py"]),
        ("nowhere:app", []),
    ],
)
def test_the_files_that_an_app_is_imported_from(tmp_path: Path, app: str, files: list[str]) -> None:
    roots = [tmp_path / "nothing", tmp_path / "src", tmp_path / "other"]
    for root in roots[1:]:
        (root / "shop").mkdir(parents=True)
        for name in ("shop/__init__.py", "shop/web.py", "shop/other.py", "single.py"):
            (root / name).touch()
    found = machine.app_files(app, map(str, roots))
    assert found == [str(roots[1] / name) for name in files]


# ---- units

EXPECTED = {
    "shop.service": "# made\n[Service]\nExecStart=x\n",
    "shop.socket": "[Socket]\nListenStream=127.0.0.1:80\n",
}
OURS = {
    "LoadState": "loaded",
    "FragmentPath": "/run/systemd/generator.late/shop.service",
    "ExecStart": "{ path=/usr/bin/prefork-sd ; argv[]=/usr/bin/prefork-sd run shop ; x }",
    "TimeoutStartUSec": "1min 10s",
    "TimeoutStopUSec": "40s",
}
LISTENING = {"ActiveState": "active", "Listen": "127.0.0.1:80 (Stream)"}


def loaded(
    service: dict[str, str] | None = None,
    socket: dict[str, str] | None = None,
    files: dict[str, str] | None = None,
) -> Loaded:
    return Loaded(
        "shop",
        OURS | (service or {}),
        {"shop.socket": LISTENING | (socket or {})},
        EXPECTED,
        EXPECTED | (files or {}),
    )


def found(units: Loaded, **settings: Any) -> list[Finding]:
    return list(unit_findings(units, Config(app="a:b", **settings)))


def test_units_as_they_should_be() -> None:
    assert found(loaded()) == []
    assert found(loaded(files={"shop.service": "[Service]\n# other comment\nExecStart=x"})) == []
    texts = ('ExecStart="/srv/a b/bin/prefork-sd" run', "ExecStart=/usr/bin/prefork-sd run")
    assert directives(texts[0]) == directives(texts[1]) == ["ExecStart=prefork-sd run"]


def test_without_systemd_there_is_nothing_to_say() -> None:
    assert found(Loaded("shop", {}, {}, EXPECTED, {})) == []


GUNICORN = "{ path=/usr/bin/gunicorn ; argv[]=/usr/bin/gunicorn shop:app ; ignore_errors=no }"
OWN_FILE = "/etc/systemd/system/shop.service"


@pytest.mark.parametrize(
    ("units", "what", "mend"),
    [
        (loaded({"LoadState": "not-found"}), "does not know", "systemctl daemon-reload"),
        (loaded({"LoadState": "masked"}), "masked: /run/systemd", "systemctl unmask shop.service"),
        (loaded(files={"shop.service": "[Service]\nExecStart=y"}), "shop.service",
         "systemctl daemon-reload"),
        (loaded({"FragmentPath": OWN_FILE, "ExecStart": GUNICORN}),
         "/usr/bin/gunicorn shop:app", f"rm {OWN_FILE}"),
        (loaded({"FragmentPath": OWN_FILE}, files={"shop.service": "[Service]"}),
         "not what the YAML file gives", "prefork-sd unit shop"),
        (loaded({"TimeoutStartUSec": "5s", "DropInPaths": "/etc/x.conf"}),
         "TimeoutStartSec= is 5 s, and boot_timeout is 60 s", "/etc/x.conf"),
        (loaded({"TimeoutStopUSec": "1s 500ms"}), "1.5 s, and graceful_timeout is 30 s",
         "TimeoutStopSec="),
        (loaded(socket={"ActiveState": "failed", "Result": "resources"}), "has failed (resources)",
         "journalctl -u shop.socket"),
        (loaded(socket={"Listen": "127.0.0.1:81 (Stream)"}), "listens on 127.0.0.1:81",
         "systemctl restart shop.socket"),
    ],
)  # fmt: skip
def test_units_that_are_not_right(units: Loaded, what: str, mend: str) -> None:
    (finding,) = found(units)
    assert what in finding.what
    assert mend in finding.mend
    assert finding.stops == (what.startswith(("masked", "/usr/bin/gunicorn", "has failed")))


DBUS = {
    "FragmentPath": "/lib/systemd/system/shop.service",
    "ExecStart": "{ path=/usr/bin/dbus-daemon ; argv[]=/usr/bin/dbus-daemon --system ; x }",
}


def test_a_unit_of_a_package_is_not_to_be_removed() -> None:
    (finding,) = found(loaded(DBUS, {"Listen": "/run/dbus/system_bus_socket (Stream)"}))
    assert "/usr/bin/dbus-daemon --system" in finding.what
    assert finding.mend == "give the YAML file another name"
    assert finding.stops


def test_the_sockets_of_another_program_are_left_alone(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemctl, "SYSTEMD", site)
    monkeypatch.setattr(machine, "shown", lambda _: OURS | DBUS | {"ActiveState": "active"})
    monkeypatch.setattr(machine, "listening", lambda: HELD)
    text = told(site, "bind: 127.0.0.1:80\n")
    assert "shop.service is /lib/systemd/system/shop.service" in text
    assert "shop.socket" not in text
    assert "bind: " not in text


@pytest.mark.parametrize(
    ("service", "http", "mends"),
    [
        ("active", "active", ["systemctl restart shop.socket"]),
        ("active", "inactive", ["systemctl restart shop"]),
        ("inactive", "active", []),  # a start opens it
    ],
)
def test_a_socket_that_a_reload_could_not_open(service: str, http: str, mends: list[str]) -> None:
    sockets = {
        "shop.socket": LISTENING | {"ActiveState": http},
        "shop-status.socket": {"ActiveState": "inactive", "Listen": "127.0.0.1:81 (Stream)"},
    }
    units = Loaded("shop", OURS | {"ActiveState": service}, sockets, TWO, TWO)
    told = found(units)
    assert [finding.mend for finding in told] == mends
    assert all("shop-status.socket" in finding.what for finding in told)
    stale = Loaded("shop", units.service, sockets, TWO, TWO | {"shop-status.socket": ""})
    assert [finding.mend for finding in found(stale)] == ["systemctl daemon-reload"]


TWO = EXPECTED | {"shop-status.socket": "[Socket]\nListenStream=127.0.0.1:81\n"}


@pytest.mark.parametrize(
    ("files", "mends"),
    [
        ({}, ["systemctl daemon-reload && systemctl restart shop.socket shop-status.socket"]),
        (
            {"shop.service": "[Service]\nExecStart=y"},
            ["systemctl daemon-reload", "systemctl restart shop.socket shop-status.socket"],
        ),
    ],
)
def test_systemd_is_to_reload_once(files: dict[str, str], mends: list[str]) -> None:
    before = {name: "[Socket]" for name in TWO if name != "shop.service"}
    sockets = dict.fromkeys(before, LISTENING | {"Listen": "127.0.0.1:82 (Stream)"})
    units = Loaded("shop", OURS, sockets, TWO, TWO | before | files)
    assert [finding.mend for finding in found(units)] == mends


def test_a_unit_written_from_the_file_is_fine() -> None:
    assert found(loaded({"FragmentPath": OWN_FILE})) == []


DROP_IN = {"DropInPaths": "/etc/x.conf"}
STALE = {"shop.service": "[Service]\nExecStart=y"}


@pytest.mark.parametrize(
    ("units", "foreseen"),
    [
        (loaded(), True),
        (loaded(DROP_IN), True),  # what it says is shown
        (loaded(DROP_IN, files=STALE), False),
        (loaded(files=STALE), True),
        (loaded(socket=DROP_IN), False),
        (loaded({"LoadState": "not-found", "FragmentPath": "", "ExecStart": ""}), True),
        (loaded({"FragmentPath": OWN_FILE, "ExecStart": GUNICORN}), False),
        (loaded({"FragmentPath": OWN_FILE}, files=STALE), False),
        (Loaded("shop", {}), False),
    ],
)
def test_whether_it_is_sure_how_the_service_will_run(units: Loaded, foreseen: bool) -> None:
    assert units.foreseen == foreseen


@pytest.mark.parametrize(
    ("text", "value"),
    [("1min 10s", 70), ("500ms", 0.5), ("0", 0), ("infinity", float("inf")), ("1d 2h", 93600)],
)
def test_time_spans_of_systemctl(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(("said", "told"), [("yes", True), ("tmpfs", True), ("read-only", False)])
def test_what_a_drop_in_shows_is_not_hidden(said: str, told: bool) -> None:
    one = Hidden("directory", "/home/me", "ProtectHome", "move it")
    assert (hidden_finding(one, loaded({"ProtectHome": said})) is not None) == told


# ---- directives of one's own

OWN: dict[str, dict[str, tuple[str, ...]]] = {
    "Service": {"MemoryMx": ("1G",), "MemoryMax": ("lots",), "Nice": ("5",)},
    "Unit": {"After": ("blog.service", "x")},
    "Socket": {"Backlg": ("3",)},
}
SAID = """\
/tmp/x/prefork-sd-check.service:4: Unknown key 'MemoryMx' in section [Service], ignoring.
/tmp/x/prefork-sd-check.service:5: Invalid memory limit 'lots', ignoring: Invalid argument
/lib/systemd/system/other.service:6: Unknown key 'Nce' in section [Service], ignoring.
/tmp/x/prefork-sd-check.service:9: Failed to add dependency on x, ignoring
/tmp/x/prefork-sd-check.service:9: Failed to add dependency on x, ignoring
prefork-sd-check.service: Command /bin/true is not executable: No such file or directory
/tmp/x/prefork-sd-check.socket:4: Unknown key 'Backlg' in section [Socket], ignoring.
"""


def test_what_systemd_says_of_a_directive_is_told_by_its_setting() -> None:
    assert [finding.what for finding in refused(OWN, SAID)] == [
        "unit.Service.MemoryMx: Unknown key 'MemoryMx' in section [Service], ignoring.",
        "unit.Service.MemoryMax: Invalid memory limit 'lots', ignoring: Invalid argument",
        "unit.Unit.After: Failed to add dependency on x, ignoring",
        "unit.Socket.Backlg: Unknown key 'Backlg' in section [Socket], ignoring.",
    ]
    assert list(refused(OWN, "")) == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_systemd_of_this_machine_says_what_it_does_not_know(site: Path) -> None:
    text = told(site, "unit: {Service: {MemoryMx: 1G, Nice: 5}, Socket: {Backlg: 3}}\n")
    assert "warning: unit.Service.MemoryMx: Unknown key" in text
    assert "warning: unit.Socket.Backlg: Unknown key" in text
    assert "unit.Service.Nice" not in text


@pytest.mark.parametrize("script", ["echo $0.service:4: no >&2", "exec false"])
def test_only_lines_of_the_drafts_count(
    site: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    (site / "systemd-analyze").write_text(f"#!/bin/sh\n{script}\n")
    (site / "systemd-analyze").chmod(0o755)
    monkeypatch.setenv("PATH", f"{site}:{os.environ['PATH']}")
    assert "unit.Service" not in told(site, "unit: {Service: {MemoryMx: 1G}}\n")
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.verified(drafts(OWN)) == ""


# ---- addresses

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x
   1: 0100007F:1F41 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 x
"""
TABLE6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0 0 0 0 0 9 1
"""


def test_who_listens_is_read_from_proc() -> None:
    assert list(listeners(TABLE)) == [Listener("127.0.0.1", 8000, "4711")]
    assert list(listeners(TABLE6)) == [Listener("::1", 80, "9")]


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", False),
        ("127.0.0.1:80", "127.0.0.2:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", True),
        ("0.0.0.0:80", "127.0.0.1:80", False),
        ("[::]:80", "127.0.0.1:80", False),
        ("[::1]:80", "0.0.0.0:80", True),
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("unix:/a", "unix:/a", False),
        ("unix:/a", "127.0.0.1:80", True),
    ],
)
def test_addresses_that_cannot_both_be_had(one: str, other: str, both: bool) -> None:
    assert overlap(one, other) is not both
    assert overlap(other, one) is not both


def test_two_services_with_one_address() -> None:
    files = {"blog": "/etc/prefork-sd/blog.yaml"}
    own = [("bind", "127.0.0.1:80"), ("bind", "unix:/a")]
    (finding,) = declared_twice(own, {"blog": ["0.0.0.0:80"]}, files)
    assert "blog (/etc/prefork-sd/blog.yaml)" in finding.what


HELD = [Listener("0.0.0.0", 80, "7")]


def test_an_address_that_is_taken() -> None:
    finding = taken(("status_bind", "127.0.0.1:80"), HELD, {"7": "nginx (12)"})
    assert finding
    assert finding.what.startswith("status_bind: ")
    assert "or change status_bind" in finding.mend
    assert "nginx (12)" in finding.what
    assert finding.stops
    assert taken(("bind", "[::]:80"), HELD, {"7": "nginx (12)"}) is not None
    six = taken(("bind", "127.0.0.1:80"), [Listener("::", 80, "7")], {})
    assert six
    assert not six.stops  # it may listen for IPv6 alone
    assert taken(("bind", "127.0.0.1:81"), HELD, {}) is None
    assert taken(("bind", "unix:/a"), HELD, {}) is None


def test_a_socket_that_does_not_listen_where_it_should() -> None:
    assert unheard("shop.socket", "0.0.0.0:80", HELD) is None
    assert unheard("shop.socket", "unix:/a", HELD) is None
    finding = unheard("shop.socket", "127.0.0.1:81", HELD)
    assert finding
    assert finding.mend == "systemctl restart shop.socket"


@pytest.mark.parametrize(
    ("address", "first", "told"),
    [("0.0.0.0:80", 1024, True), ("0.0.0.0:80", 0, False), ("0.0.0.0:8000", 1024, False),
     ("unix:/a", 1024, False), ("127.0.0.1:0", 1024, False)],
)  # fmt: skip
def test_a_port_below_1024_without_systemd(address: str, first: int, told: bool) -> None:
    assert (below(("bind", address), first) is not None) == told


def test_an_address_that_the_machine_does_not_have(site: Path) -> None:
    texts = told(site, "bind: [192.0.2.1:8000, '[2001:db8::1]:8000']\nstatus_bind: 8001\n")
    assert "warning: bind: this machine does not have 192.0.2.1 now" in texts  # RFC 5737
    assert "does not have 127.0.0.1" not in texts
    finding = elsewhere(("status_bind", "[2001:db8::1]:80"), lambda host: host != "2001:db8::1")
    assert finding
    assert finding.what == "status_bind: this machine does not have 2001:db8::1 now"
    assert elsewhere(("bind", "unix:/a"), lambda _: False) is None
    assert machine.has_address("0.0.0.0")


NGINX = Proxy("nginx", Identity("www-data", 33, frozenset({33})))
CADDY = Proxy("Caddy", Identity("caddy", 998, frozenset({998})))
HAPROXY = Proxy("HAProxy", Identity("haproxy", 97, frozenset({33})), "/var/lib/haproxy")


@pytest.mark.parametrize(
    ("proxies", "mend"),
    [
        ([], None),
        ([NGINX], None),
        ([CADDY, NGINX], None),
        ([CADDY], "socket_group: caddy"),
        ([HAPROXY], "bind: /var/lib/haproxy/NAME.sock"),
    ],
)
def test_a_proxy_may_connect(proxies: list[Proxy], mend: str | None) -> None:
    finding = unreachable(RUN, SOCKET, proxies, group="www-data")
    assert (finding is not None) == (mend is not None)
    if finding and mend:
        assert mend in finding.mend


def test_a_socket_in_a_closed_folder() -> None:
    socket = Node("/srv/x/a.sock", SOCKET.mode, 0, 33)
    finding = unreachable([ROOT, folder("/srv/x", 0o700)], socket, [NGINX], group="www-data")
    assert finding
    assert finding.mend.startswith("chmod o+x /srv/x")
    assert denied([SOCKET], NGINX.identity, WRITE) is None


def test_the_user_of_nginx() -> None:
    assert nginx_user("worker_processes auto;\nuser nginx web;\n") == "nginx"
    assert nginx_user("# user x;\nevents {}\n") == "www-data"


# ---- virtual environments


def make_venv(home: Path, version: str = "3.11", python: str = "/bin/sh") -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "pyvenv.cfg").touch()
    (home / "lib" / f"python{version}").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(python)
    return home


def test_a_venv_that_is_fine(tmp_path: Path) -> None:
    assert list(venv_findings(make_venv(tmp_path / "venv"))) == []


@pytest.mark.parametrize(
    ("version", "python", "what"),
    [
        ("3.9", "/bin/sh", "is of Python 3.9"),
        ("3.11", "/nowhere/python3.11", "leads to /nowhere/python3.11, which does not exist"),
        ("3.11", "/etc/passwd", "no Python that runs"),
    ],
)
def test_a_venv_that_is_not(tmp_path: Path, version: str, python: str, what: str) -> None:
    (finding,) = venv_findings(make_venv(tmp_path / "venv", version, python))
    assert what in finding.what


def test_no_venv(tmp_path: Path) -> None:
    assert "does not exist" in next(venv_findings(tmp_path / "venv")).what
    (tmp_path / "venv").mkdir()
    (finding,) = venv_findings(tmp_path / "venv")
    assert "is not a virtual environment" in finding.what
    assert "--clear" not in finding.mend  # it would empty a folder that is something else


def test_an_environment_of_conda(tmp_path: Path) -> None:
    (make_venv(tmp_path / "venv") / "pyvenv.cfg").unlink()
    assert list(venv_findings(tmp_path / "venv")) == []


# ---- all of it


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of services with the code beside them, on a machine without systemd."""
    monkeypatch.setenv("PREFORK_SD_CONFIG_PATH", str(tmp_path))
    monkeypatch.setattr(systemctl, "SYSTEMD", tmp_path / "nothing")
    (tmp_path / "code").mkdir()
    return tmp_path


def told(site: Path, yaml: str) -> str:
    path = site / "shop.yaml"
    path.write_text(f"app: a:b\ndirectory: {site}/code\n{yaml}")
    app = Application("shop", path)
    return "\n".join(map(str, findings("shop", path, app.cfg)))


@pytest.mark.parametrize(
    ("yaml", "text"),
    [
        ("user: nobody-of-this-name\n", "there is no nobody-of-this-name"),
        ("socket_group: nobody-of-this-name\n", "there is no group nobody-of-this-name"),
        ("socket_user: nobody-of-this-name\n", "there is no nobody-of-this-name"),
        ("pythonpath: /nowhere/at/all\n", "pythonpath: there is no /nowhere/at/all"),
        ("venv: /nowhere/venv\n", "/nowhere/venv does not exist"),
        ("unit: {Service: {ProtectHome: no}}\n", "is hidden by PrivateTmp=yes"),
    ],
)
def test_what_is_told_of_a_file(site: Path, yaml: str, text: str) -> None:
    assert text in told(site, yaml)


def test_an_app_that_is_closed_to_the_service(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemctl, "SYSTEMD", site)
    monkeypatch.setattr(machine, "shown", lambda _: NEW)
    monkeypatch.setattr(machine, "way", lambda _: [])  # that the folders are open
    (site / "code" / "other.py").touch(0o600)
    open_folders = "unit: {Service: {PrivateTmp: no}}\n"
    assert "warning: directory: closed to" in told(site, open_folders)
    (site / "code" / "a.py").touch(0o600)
    text = f"error: directory: closed to the service's own user: {site}/code/a.py"
    assert text in told(site, open_folders)


NEW = {"LoadState": "not-found"}  # the units of a file that systemd has not read yet


@pytest.mark.parametrize(
    ("yaml", "shown", "stops"),
    [
        ("user: nobody-of-this-name\n", NEW, True),
        ("user: nobody-of-this-name\n", {}, False),  # without systemd nobody becomes them
        ("user: nobody-of-this-name\nunit: {Service: {User: root}}\n", NEW, False),
        ("group: nobody-of-this-name\nuser: root\n", NEW, True),
        ("socket_group: nobody-of-this-name\n", NEW, True),
        ("socket_user: nobody-of-this-name\n", NEW, True),
        ("socket_user: nobody-of-this-name\n", NEW | {"ActiveState": "active"}, False),
        ("socket_user: nobody-of-this-name\nbind: 127.0.0.1:8000\n", NEW, False),
        ("unit: {Service: {ProtectHome: no}}\n", NEW, True),  # PrivateTmp=
        ("unit: {Service: {ProtectHome: no}}\n", {}, False),
        ("unit: {Service: {ProtectHome: no}}\n", {**NEW, "DropInPaths": "/etc/x.conf"}, False),
    ],
)
def test_what_stops_a_service_of_systemd(
    site: Path, monkeypatch: pytest.MonkeyPatch, yaml: str, shown: dict[str, str], stops: bool
) -> None:
    monkeypatch.setattr(systemctl, "SYSTEMD", site)
    monkeypatch.setattr(machine, "shown", lambda _: shown)
    key = yaml.partition(": nobody")[0] if "nobody" in yaml else f"directory: {site}/code is hidden"
    text = told(site, yaml)
    assert (f"error: {key}" in text, f"warning: {key}" in text) == (stops, not stops)


@pytest.mark.parametrize(
    ("service", "stops"),
    [("inactive", True), ("failed", True), ("active", False)],  # its own, perhaps, without a unit
)
def test_an_address_that_is_taken_stops_who_has_yet_to_start(
    site: Path, monkeypatch: pytest.MonkeyPatch, service: str, stops: bool
) -> None:
    states = {"shop.service": service, "shop.socket": "inactive"}
    monkeypatch.setattr(systemctl, "SYSTEMD", site)
    monkeypatch.setattr(machine, "shown", lambda unit: NEW | {"ActiveState": states[unit]})
    monkeypatch.setattr(machine, "listening", lambda: HELD)
    assert ("error: bind: " in told(site, "bind: 127.0.0.1:80\n")) == stops


def test_a_socket_that_has_failed_is_not_excused_by_another_one(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {"shop.service": "inactive", "shop.socket": "failed", "shop-status.socket": "active"}
    monkeypatch.setattr(systemctl, "SYSTEMD", site)
    monkeypatch.setattr(machine, "shown", lambda unit: NEW | {"ActiveState": states[unit]})
    monkeypatch.setattr(machine, "listening", lambda: HELD)
    texts = told(site, "bind: 127.0.0.1:80\nstatus_bind: 127.0.0.1:81\nsocket_user: nobody-x\n")
    assert "error: shop.socket has failed" in texts
    assert "error: bind: " in texts
    assert "error: socket_user: " not in texts  # it has no unix socket
    texts = told(site, "status_bind: 127.0.0.1:81\nsocket_user: nobody-of-this-name\n")
    assert "error: socket_user: " in texts


def test_a_port_that_no_unit_opens(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "unprivileged_port", lambda: 1024)
    assert "port 80 is below 1024" in told(site, "bind: 127.0.0.1:80\n")
    assert "below 1024" not in told(site, "bind: 127.0.0.1:8000\n")


def test_a_name_that_is_a_user_s(site: Path) -> None:
    path = site / "daemon.yaml"
    path.write_text(f"app: a:b\ndirectory: {site}/code\n")
    app = Application("daemon", path)
    texts = "\n".join(map(str, findings("daemon", path, app.cfg)))
    assert "a user daemon exists" in texts


def test_a_neighbour_with_the_same_address(site: Path) -> None:
    (site / "blog.yaml").write_text("app: a:b\nbind: 127.0.0.1:8000\n")
    (site / "broken.yaml").write_text("app: [\n")
    assert "blog" in told(site, "bind: 127.0.0.1:8000\n")


def test_where_folders_are_bound_elsewhere_paths_tell_nothing(site: Path) -> None:
    assert told(site, "unit: {Service: {BindPaths: /a}}\n") == ""


def test_a_venv_whose_python_is_in_somebody_s_home(site: Path, tmp_path: Path) -> None:
    make_venv(tmp_path / "venv", python="/root/.local/share/uv/python/bin/python3.11")
    texts = told(site, f"venv: {tmp_path}/venv\n")
    assert "venv: /root/.local/share/uv/python/bin/python3.11 is hidden by ProtectHome" in texts
