"""The floors of the house: a module imports only from floors below its own."""

import ast
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = "prefork_sd"
HOUSE = Path(__file__).parents[1] / PACKAGE

# From the ground up; rooms of one set do not know each other. A package that is one room, like
# http1, stands here by its own name, and the order of its modules is its own affair.
FLOORS: list[set[str]] = [
    # 0: words
    {"errors"},
    # 1: thought
    {
        "settings",
        "hooks",
        "pool",
        "tally",
        "http1",
        "report",
        "forwarded",
        "proxyprotocol",
        "metrics",
        "entrypoints",
    },
    {"values", "envfile"},
    {"config"},
    {"building", "units", "draft"},
    {"gunicornconf"},
    # 2: doors
    {
        "activation",
        "cgroups",
        "imports",
        "journal",
        "keepsake",
        "listeners",
        "notify",
        "parcel",
        "pidfile",
        "pressure",
        "scoreboard",
        "signals",
        "sources",
        "systemctl",
        "tls",
        "varlink",
        "gunicornrun",
        "venvs",
    },
    {"process", "asking", "control", "frameworks", "statusdoor", "project"},
    {"loader"},
    {"applog", "herald", "guarded", "obituary", "sockets"},
    # 3: the app's side
    {"wsgi"},
    # 4 to 6: workers
    {"workers.base", "workers.bodies", "workers.terms", "workers.timers", "workers.wear"},
    {"workers.outlet"},
    {"workers.connection"},
    {"workers.access"},
    {"workers.tlsconnection", "workers.asgiprotocol", "workers.asgiscope", "workers.lifespan"},
    {"workers.accept", "workers.asgirequest"},
    {"workers.clients"},
    {"workers.calls"},
    {"workers.loop"},
    {"workers.together"},
    {"workers.hearing"},
    {"workers.shortway"},
    {"workers.asgiservice"},
    {"workers.sync", "workers.threads", "workers.asgi"},
    # the arbiter
    {"release", "bulletin"},
    {"mold"},
    {"abroad"},
    {"foundry", "trial"},
    {"crew"},
    {"lookout"},
    {"reloading", "vitals"},
    {"frontdesk", "reexec", "relief"},
    {"doors", "heirlooms"},
    {"arbiter"},
    # 7: commands
    {"deployment", "scaffold", "checks"},
    {"commands", "remote", "generator"},
    {"cli"},
    {"__main__"},
]
THOUGHT = set[str]().union(*FLOORS[:6])
GROUND = {"", "workers"}  # an __init__.py without code, for everybody

# The doors to libraries that are not Python's own, and the interfaces that no thought touches.
LIBRARIES = {
    "yaml": {"sources"},
    "systemd": {"activation"},
    "setproctitle": {"process"},
    "uvicorn": {"workers.asgiprotocol"},
    "uvloop": {"workers.asgiservice"},
}
OUTSIDE = {"os", "socket", "time", "select", "selectors", "subprocess", "threading", "mmap"}


def modules() -> dict[str, Path]:
    """Every module of the house by its name below the package; a package by its own."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """The room a module belongs to: itself, or the package that is one room."""
    while module and module not in GROUND and all(module not in floor for floor in FLOORS):
        module = module.rpartition(".")[0]
    return module


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of everything a module imports, what only the type checker sees aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen: set[ast.AST] = set()
    for node in ast.walk(tree):  # parents come before their children
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            unseen.update(chain.from_iterable(map(ast.walk, node.body)))
        elif node in unseen:
            continue
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def house_imports(module: str) -> set[str]:
    """The rooms that a module imports from."""
    rooms = set()
    for name in imported(MODULES[module]):
        inner = name.removeprefix(f"{PACKAGE}.")
        if inner == name:
            continue
        while inner not in MODULES:
            inner = inner.rpartition(".")[0]  # the name in the module
        rooms.add(room(inner))
    return rooms - GROUND


def test_every_module_has_one_floor_and_every_room_its_module() -> None:
    homeless = [name for name in MODULES if name not in GROUND and not room(name)]
    assert homeless == []
    named = list(chain(*FLOORS))
    assert len(named) == len(set(named))
    assert [name for name in named if name not in MODULES] == []


@pytest.mark.parametrize("module", sorted(set(MODULES) - GROUND))
def test_imports_go_downstairs(module: str) -> None:
    own = room(module)
    level = next(number for number, floor in enumerate(FLOORS) if own in floor)
    below = set[str]().union(*FLOORS[:level])
    assert house_imports(module) - {own} <= below


@pytest.mark.parametrize("module", sorted(GROUND & set(MODULES)))
def test_what_everybody_may_import_imports_nothing(module: str) -> None:
    assert house_imports(module) == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_library_has_its_door(module: str) -> None:
    libraries = {name.partition(".")[0] for name in imported(MODULES[module])}
    foreign = libraries - sys.stdlib_module_names - {PACKAGE}
    assert foreign <= {name for name, doors in LIBRARIES.items() if room(module) in doors}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if room(name) in THOUGHT))
def test_thought_touches_nothing(module: str) -> None:
    assert {name.partition(".")[0] for name in imported(MODULES[module])}.isdisjoint(OUTSIDE)
