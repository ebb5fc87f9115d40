"""The manual and the guides: they know every setting, hook, command, signal and event there is."""

import argparse
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from prefork_sd import cli
from prefork_sd.arbiter import Arbiter
from prefork_sd.config import describe
from prefork_sd.errors import ExitCode
from prefork_sd.hooks import ARGUMENTS
from prefork_sd.journal import Event
from prefork_sd.release import SERVICE_SETTINGS, SOCKET_SETTINGS

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
PAGES = ("dh_prefork_sd.1", "prefork-sd.8", "prefork-sd-generator.8", "prefork-sd.hooks.5")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
groff = pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")


def manpage(*arguments: str) -> str:
    """What packaging/manpage writes."""
    command = [str(TOP / "packaging" / "manpage"), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30).stdout


def page(name: str) -> str:
    return (DOCS / "man" / name).read_text(encoding="utf-8")


def plain(source: str) -> str:
    """A page's source without the escapes of roff."""
    return re.sub(r"\\f[A-Z]", "", source).replace("\\-", "-").replace('"', "")


@pytest.fixture(scope="module")
def settings_page() -> str:
    return manpage()


@groff
@pytest.mark.parametrize("name", [*PAGES, "prefork-sd.yaml.5"])
def test_it_renders_without_a_warning(name: str, settings_page: str) -> None:
    source = settings_page if name == "prefork-sd.yaml.5" else page(name)
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", "-rF0"],
        input=source,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_setting_is_in_the_page_and_in_the_guide(settings_page: str) -> None:
    guide = (DOCS / "settings.md").read_text(encoding="utf-8")
    for setting in describe():
        assert f".TP\n\\fB{setting.name}\\fR" in settings_page
        assert f"\n| `{setting.name}` |" in guide


def test_the_guide_to_the_settings_is_up_to_date() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == manpage("--markdown")


def test_the_groups_and_notes_are_of_settings_that_exist(settings_page: str) -> None:
    known = {setting.name for setting in describe()}
    script = (TOP / "packaging" / "manpage").read_text(encoding="utf-8")
    tables = re.findall(r"^(?:GROUPS|MORE|WRONG) = \{\n(.*?)^\}", script, re.MULTILINE | re.DOTALL)
    names = set(re.findall(r'^    "(\w+)": ', "".join(tables), re.MULTILINE))
    assert len(tables) == 3
    assert names
    assert names <= known


@pytest.mark.parametrize("unit", ["socket", "service"])
def test_what_a_reload_cannot_change_is_said(unit: str, settings_page: str) -> None:
    entries = plain(settings_page).split(".TP\n")
    said = {
        entry.split()[0]
        for entry in entries
        if f"daemon-reload and a restart of the {unit}." in entry
    }
    assert said == set(SOCKET_SETTINGS if unit == "socket" else SERVICE_SETTINGS)


def test_every_hook_is_described_with_its_arguments() -> None:
    source = plain(page("prefork-sd.hooks.5"))
    guide = (DOCS / "hooks.md").read_text(encoding="utf-8")
    for name, arguments in ARGUMENTS.items():
        assert f".BR {name} ({', '.join(arguments)})" in source
        assert f"`{name}({', '.join(arguments)})`" in guide


def test_every_command_and_option_is_described() -> None:
    source = plain(page("prefork-sd.8"))
    commands = next(
        action.choices
        for action in cli.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for name, parser in commands.items():
        assert re.search(rf"^prefork-sd {name}\b", source, re.MULTILINE)
        assert re.search(rf"^\.TP\n{name}\b", source, re.MULTILINE)
        for action in parser._actions:
            own = action.dest != "help" and not action.dest.startswith("set_")
            for option in action.option_strings if own else ():
                assert option in source


@pytest.mark.parametrize("text", ["prefork-sd.8", "signals.md"])
def test_every_signal_and_exit_status_is_described(text: str) -> None:
    source = plain(page(text)) if text.endswith(".8") else (DOCS / text).read_text(encoding="utf-8")
    for signum in Arbiter.SIGNALS:
        assert signum.name in source
    for code in ExitCode:
        assert re.search(rf"(^\.B |^\| ){code.value}\b", source, re.MULTILINE)


def test_every_event_is_described() -> None:
    guide = (DOCS / "journal.md").read_text(encoding="utf-8")
    for event in Event:
        assert re.search(rf"^\| `{event.label}` \| .* \| `{event.value}` \|$", guide, re.MULTILINE)


@pytest.mark.parametrize(
    "path", [TOP / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_readme_leads_to_every_guide() -> None:
    targets = set(LINK.findall((TOP / "README.md").read_text(encoding="utf-8")))
    assert {f"docs/{guide.name}" for guide in DOCS.glob("*.md")} <= targets


def test_the_architecture_names_every_module() -> None:
    guide = (DOCS / "architecture.md").read_text(encoding="utf-8")
    house = TOP / "prefork_sd"
    modules = [path.relative_to(house) for path in house.rglob("*.py")]
    folders = ("http1", "wsgi", "checks")  # each of them is one room
    rooms = {f"{one.parts[0]}/" if one.parts[0] in folders else str(one) for one in modules}
    rooms -= {"__init__.py", "workers/__init__.py"}
    named = re.findall(r"`([\w/*]+(?:\.py|/))`", guide)
    assert [room for room in sorted(rooms) if not any(fnmatch(room, one) for one in named)] == []


def test_every_metric_is_described() -> None:
    guide = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    source = (TOP / "prefork_sd" / "vitals.py").read_text(encoding="utf-8")
    names = re.findall(r'(?:metrics\.\w+|Family)\(\s*"(\w+)"', source)
    assert names
    assert [name for name in names if f"`prefork_sd_{name}" not in guide] == []
