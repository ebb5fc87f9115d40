"""The unit texts: right for systemd, true to the YAML, and closed to tricks of quoting."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from prefork_sd.building import build
from prefork_sd.sources import templates
from prefork_sd.units import notes, render, span, wanted_by, word

SOURCE = "/etc/prefork-sd/shop.yaml"
TOO_NEW = {  # for the oldest systemd of ours, which says so and goes on
    "Unknown key name 'RestartSteps' in section 'Service', ignoring.",
    "Unknown key 'RestartSteps' in section [Service], ignoring.",
    "Unknown key name 'RestartMaxDelaySec' in section 'Service', ignoring.",
    "Unknown key 'RestartMaxDelaySec' in section [Service], ignoring.",
    "Unknown key name 'RefreshOnReload' in section 'Service', ignoring.",
    "Unknown key 'RefreshOnReload' in section [Service], ignoring.",
    "Failed to parse boolean value, ignoring: private",
}


def units(
    source: str = SOURCE, executable: str = "/usr/bin/prefork-sd", **values: object
) -> tuple[str, str]:
    cfg = build({"app": "shop:app", **values})
    texts = render("shop", cfg, source=source, executable=executable, templates=templates())
    assert list(texts) == ["shop.service", "shop.socket"]
    return texts["shop.service"], texts["shop.socket"]


def directives(text: str, section: str) -> dict[str, list[str]]:
    """What a section of a unit says, by directive."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            current = match[1]
        elif current == section and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_service() -> None:
    text, _ = units()
    assert "@" not in re.sub(r"@(system-service|privileged|resources|chown)", "", text)
    service = directives(text, "Service")
    unit = directives(text, "Unit")
    assert unit["SourcePath"] == [SOURCE]
    assert unit["Requires"] == ["shop.socket"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert service["ExecStart"] == ["/usr/bin/prefork-sd run shop"]
    assert service["ExecReload"] == ["/usr/bin/prefork-sd reload shop"]
    assert service["TimeoutStartSec"] == ["70s"]
    assert service["TimeoutStopSec"] == ["40s"]
    assert service["WatchdogSec"] == ["20s"]
    assert service["RuntimeDirectory"] == ["prefork-sd/shop"]
    assert service["DynamicUser"] == ["yes"]
    assert "User" not in service
    assert service["Type"] == ["notify"]
    assert service["KillMode"] == ["mixed"]
    assert "RestartPreventExitStatus" not in service


def test_the_socket() -> None:
    _, text = units()
    assert directives(text, "Socket") == {
        "ListenStream": ["/run/prefork-sd/shop.sock"],
        "SocketMode": ["0660"],
        "SocketGroup": ["www-data"],
        "FileDescriptorName": ["http"],
        "Service": ["shop.service"],
        "Backlog": ["2048"],
        "DirectoryMode": ["0755"],
        "NoDelay": ["yes"],
    }


def test_sockets_of_the_yaml() -> None:
    _, text = units(bind=["8000", "[::]:80", "/run/a%b.sock"], socket_user="me", backlog=5)
    socket = directives(text, "Socket")
    assert socket["ListenStream"] == ["127.0.0.1:8000", "[::]:80", "/run/a%%b.sock"]
    assert (socket["SocketUser"], socket["Backlog"], socket["FreeBind"]) == (["me"], ["5"], ["yes"])
    _, text = units(bind="8000")
    assert "SocketGroup" not in directives(text, "Socket")


TLS = {
    "tls_bind": ["0.0.0.0:443", "/run/tls.sock"],
    "tls_certificate": "/etc/ssl/100%.pem",
    "tls_key": "/etc/ssl/private/shop.key",
}


def test_tls_has_a_socket_unit_of_its_own() -> None:
    cfg = build({"app": "shop:app", "bind": "8000", **TLS})
    texts = render("shop", cfg, source=SOURCE, templates=templates())
    assert list(texts) == ["shop.service", "shop.socket", "shop-tls.socket"]
    unit, service, install = (
        directives(texts["shop.service"], section) for section in ("Unit", "Service", "Install")
    )
    both = ["shop.socket shop-tls.socket"]
    assert (unit["Requires"], service["Sockets"], install["Also"]) == (both, both, both)
    assert directives(texts["shop-tls.socket"], "Socket") == {
        "ListenStream": ["0.0.0.0:443", "/run/tls.sock"],
        "SocketMode": ["0660"],
        "SocketGroup": ["www-data"],
        "FreeBind": ["yes"],
        "FileDescriptorName": ["https"],
        "Service": ["shop.service"],
        "Backlog": ["2048"],
        "DirectoryMode": ["0755"],
        "NoDelay": ["yes"],
    }
    assert directives(texts["shop-tls.socket"], "Unit")["SourcePath"] == [SOURCE]
    assert directives(texts["shop.socket"], "Socket")["ListenStream"] == ["127.0.0.1:8000"]


def test_with_tls_alone_there_is_no_other_socket() -> None:
    cfg = build({"app": "shop:app", **TLS})
    texts = render("shop", cfg, source=SOURCE, templates=templates())
    assert list(texts) == ["shop.service", "shop-tls.socket"]
    assert directives(texts["shop.service"], "Unit")["Requires"] == ["shop-tls.socket"]


def test_the_files_of_tls_are_credentials() -> None:
    cfg = build({"app": "shop:app", **TLS, "tls_client_ca": "credential:staff"})
    text = render("shop", cfg, source=SOURCE, templates=templates())["shop.service"]
    service = directives(text, "Service")
    assert service["LoadCredential"] == [
        "tls_certificate:/etc/ssl/100%%.pem",
        "tls_key:/etc/ssl/private/shop.key",
    ]
    assert service["SetCredential"] == ["tls_certificate:missing", "tls_key:missing"]
    assert service["RefreshOnReload"] == ["credentials"]
    assert "RefreshOnReload" not in units()[0]


def test_credentials_of_the_app_are_renewed_by_a_reload_where_systemd_can() -> None:
    unit = {"Service": {"LoadCredential": "key:/etc/shop/key"}}
    cfg = build({"app": "shop:app", "unit": unit})
    text = render("shop", cfg, source=SOURCE, templates=templates())["shop.service"]
    service = directives(text, "Service")
    assert service["RefreshOnReload"] == ["credentials"]
    assert service["LoadCredential"] == ["key:/etc/shop/key"]


def test_deadlines_and_user_come_from_the_yaml() -> None:
    text, _ = units(
        boot_timeout="5min", graceful_timeout="1500ms", watchdog=0, user="shop", group="web"
    )
    service = directives(text, "Service")
    assert service["TimeoutStartSec"] == ["310s"]
    assert service["TimeoutStopSec"] == ["11.5s"]
    assert service["WatchdogSec"] == ["0"]
    assert (service["User"], service["Group"]) == (["shop"], ["web"])
    assert "DynamicUser" not in service


def test_a_source_elsewhere_is_named_by_its_path() -> None:
    text, _ = units(source='/srv/a "b" 100%/$x/shop.yaml')
    word = '"/srv/a \\"b\\" 100%%/$$x/shop.yaml"'
    assert directives(text, "Service")["ExecStart"] == [f"/usr/bin/prefork-sd run {word}"]
    assert directives(text, "Unit")["SourcePath"] == ['/srv/a "b" 100%%/$x/shop.yaml']


def test_directives_of_the_yaml_come_last_in_their_section() -> None:
    text, socket = units(
        unit={
            "Unit": {"Description": "Shop"},
            "Service": {"MemoryMax": "1G", "Environment": ["A=1", "B=2"], "NoExecPaths": None},
            "Socket": {"KeepAlive": True},
            "Install": {"WantedBy": "graphical.target"},
        }
    )
    assert directives(text, "Unit")["Description"][-1] == "Shop"
    service = directives(text, "Service")
    assert service["MemoryMax"] == ["1G"]
    assert service["Environment"] == ["A=1", "B=2"]
    assert service["NoExecPaths"][-1] == ""
    assert directives(text, "Install")["WantedBy"] == ["multi-user.target", "graphical.target"]
    assert list(directives(socket, "Socket"))[-1] == "KeepAlive"
    assert "Description=Shop" not in socket


def test_code_may_lie_below_var() -> None:
    def no_exec(**values: object) -> list[str]:
        return directives(units(**values)[0], "Service")["NoExecPaths"]  # type: ignore[arg-type]

    assert no_exec(directory="/srv/shop") == ["/var /run /tmp /dev/shm"]
    assert no_exec(directory="/var/www/shop") == ["/run /tmp /dev/shm"]
    assert no_exec(venv="/var/www/venv") == ["/run /tmp /dev/shm"]
    assert no_exec(directory="/variety") == ["/var /run /tmp /dev/shm"]


def test_paths_that_the_protection_hides_are_noted() -> None:
    def noted(**values: object) -> list[str]:
        return list(notes(build({"app": "a:b", **values})))

    assert noted(directory="/srv/x", venv="/opt/x") == []
    (note,) = noted(directory="/home/me/x")
    assert "ProtectHome=yes" in note
    assert noted(directory="/home/me/x", unit={"Service": {"ProtectHome": "read-only"}}) == []
    (note,) = noted(venv="/tmp/x")
    assert "PrivateTmp=yes" in note


def test_wanted_by() -> None:
    install = {"WantedBy": ["a.target ../../x", "b/c.target"]}
    assert wanted_by(build({"app": "a:b"})) == ("multi-user.target",)
    assert wanted_by(build({"app": "a:b", "unit": {"Install": install}})) == (
        "multi-user.target",
        "a.target",
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0"), (30.0, "30s"), (0.5, "0.5s"), (604810.0, "604810s")]
)
def test_time_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("text", "quoted"), [("/a/b-c.d", "/a/b-c.d"), ("a b", '"a b"'), ("a\\b", '"a\\\\b"')]
)
def test_words(text: str, quoted: str) -> None:
    assert word(text) == quoted


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "bind": ["127.0.0.1:8000", "[::1]:8000", "/run/shop%x.sock"],
            "user": "www-data",
            "group": "www-data",
            "watchdog": 0,
            "directory": "/var/www/shop",
            "unit": {
                "Unit": {"Wants": ["network-online.target"]},
                "Service": {"MemoryMax": "1G", "Environment": ["A=1", "B=2"], "PrivateTmp": False},
                "Socket": {"KeepAlive": True},
            },
        },
        {"bind": "8000", **TLS},
    ],
)
@pytest.mark.parametrize("source", [SOURCE, "/srv/a b/100%/shop.yaml"])
def test_systemd_takes_them(values: dict[str, object], source: str, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze here")
    cfg = build({"app": "shop:app", **values})
    texts = render("shop", cfg, source=source, executable="/bin/true", templates=templates())
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [tool, "verify", "--man=no", *(str(tmp_path / name) for name in texts)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:", "LC_ALL": "C.UTF-8"},
    )
    said = [re.sub(r"^\S+:\d+: ", "", line) for line in done.stderr.splitlines()]
    assert [line for line in said if line not in TOO_NEW] == []
