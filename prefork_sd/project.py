"""A project's folder as it lies there: which app it has, where it is imported from, its venv."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prefork_sd.draft import Choice
from prefork_sd.entrypoints import ASGI, EntryPoint, entry_points, imports_of, text_of
from prefork_sd.envfile import parse
from prefork_sd.errors import PreforkError
from prefork_sd.parcel import OLDEST
from prefork_sd.settings import BadValueError

DEPTH_MAX = 4  # folders below the project's own
FILES_MAX = 2000  # Python files that are looked at
SIZE_MAX = 1 << 20  # bytes of one
VENVS = ("venv", ".venv", "env", "virtualenv")
NO_CODE = {"node_modules", "site-packages", "__pycache__", "build", "dist", "migrations"}
NO_SERVICE = re.compile(r"(test|tests|docs?|examples?|scripts?|conftest|setup|test_.*|.*_test)")
GENERIC = {
    "current",
    "src",
    "app",
    "backend",
    "server",
    "web",
    "www",
    "code",
    "release",
    "site",
    "releases",
}
FILES = ("wsgi", "asgi", "app", "main", "application", "server", "__init__")  # best first
SETTINGS_MODULE = "DJANGO_SETTINGS_MODULE"


@dataclass(frozen=True, slots=True)
class Found:
    """An app that a project has: its path for `app`, the folder that it is imported from."""

    app: str
    root: Path
    file: Path
    entry: EntryPoint

    def why(self) -> str:
        what = " ".join(filter(None, (self.entry.framework, self.entry.kind)))
        kind = f"a {what} app" if what else "an app"
        made = f"makes {kind}" if self.entry.factory else f"is {kind}"
        return f"{self.entry.call} in {self.file}, line {self.entry.line}, {made}"


@dataclass(slots=True)
class Project:
    """What was found: choices for settings, and sentences about what to look at."""

    name: str
    chosen: dict[str, Choice] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def venv(self) -> Path | None:
        """Where its virtual environment is."""
        if "venv" not in self.chosen:
            return None
        return Path(str(self.chosen["directory"].value), str(self.chosen["venv"].value))


def survey(folder: Path) -> Project:
    """Look at a folder without importing or running any of it. Raises PreforkError."""
    folder = folder.absolute()
    if not folder.is_dir():
        raise PreforkError(f"{folder} is not a folder")
    project = Project(name_of(folder))
    found, others = choose(candidates(folder))
    root = found.root if found else folder
    if found:
        project.chosen["app"] = Choice(found.app, found.why())
    project.chosen["directory"] = Choice(str(root), "the folder that it is imported from")
    if others:
        listed = ", ".join(
            other.app if other.root == root else f"{other.app} (in {other.root})"
            for other in others[:3]
        )
        project.notes.append(f"There is also {listed}; correct `app` if that is the one")
    venv = venv_near(folder, root)
    if venv:
        version = venv_version(venv)
        project.chosen["venv"] = Choice(relative(venv, root), f"it is of Python {version or '?'}")
        if too_old(version):  # or without packages
            project.notes.append(f"{venv} will not do: Python 3.11 is the oldest that will")
    if found and found.entry.kind == ASGI and not _has_uvicorn(venv):
        where = f"{venv}/bin/pip install uvicorn" if venv else "apt install python3-uvicorn"
        project.notes.append(f"An ASGI app needs uvicorn: {where}")
    _environment(folder, project)
    _writes(root, project)
    return project


def name_of(folder: Path) -> str:
    """A name for the service, from the first folder upwards that is not called as all are."""
    for part in (folder.name, *(parent.name for parent in folder.parents)):
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", part).strip("-._").lower()
        if name and name not in GENERIC and not re.fullmatch(r"[0-9tT_.-]+", name):
            return name
    return "app"


# ---- apps


def candidates(folder: Path) -> list[Found]:
    """Every app of a project, the likeliest first."""
    django = [one for manage in _manage_files(folder) for one in django_apps(manage)]
    ranked: list[tuple[tuple[object, ...], Found]] = []
    for path in python_files(folder):
        for point in _points(path):
            if not point.kind and path.stem not in ("wsgi", "asgi"):
                continue  # another module's app, which is seen there
            root, module = import_root(folder, path, imports_of(_source(path)))
            if module:
                found = Found(f"{module}:{point.call}", root, path, point)
                ranked.append((_rank(folder, found), found))
    known = {found.file for found in django}
    ranked.sort(key=lambda pair: pair[0])
    return django + [found for _, found in ranked if found.file not in known]


def choose(found: list[Found]) -> tuple[Found | None, list[Found]]:
    """The likeliest app, and those that somebody may have meant instead."""
    if not found:
        return None, []
    first, *rest = found
    others = [one for one in rest if (one.app, one.root) != (first.app, first.root)]
    return first, others


def _rank(folder: Path, found: Found) -> tuple[object, ...]:
    """Sorts: what is meant for servers first, then what is near, then what is called as usual."""
    stem, parts = found.file.stem, found.file.relative_to(folder).parts
    file = FILES.index(stem) if stem in FILES else len(FILES)
    return (
        stem not in ("wsgi", "asgi"),
        found.entry.factory,
        not found.entry.framework,
        len(parts),
        file,
        found.entry.call not in ("app", "application"),
        str(found.file),
        found.entry.line,
    )


def import_root(folder: Path, path: Path, imports: Iterable[str]) -> tuple[Path, str]:
    """(the folder to import from, the module's dotted name); no name where it can have none.

    A folder with an __init__.py is part of its parent. Above that, the file's own imports decide:
    where they are beside it, its folder is the root, and else the project's folder or its src.
    """
    top = path.parent
    while (top / "__init__.py").exists() and top != top.parent:
        top = top.parent
    root = top
    beside = {name for name in imports if _module_in(top, name)}
    above = [one for one in (folder, folder / "src") if top.is_relative_to(one)]
    for one in reversed(above):
        if not beside and (one == folder / "src" or any(_module_in(one, name) for name in imports)):
            root = one
            break
    parts = [*path.relative_to(root).parent.parts]
    parts += [] if path.stem == "__init__" else [path.stem]
    named = bool(parts) and all(part.isidentifier() for part in parts)
    return root, ".".join(parts) if named else ""


def _module_in(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()


# ---- Django


def _manage_files(folder: Path) -> Iterator[Path]:
    for path in (folder / "manage.py", *sorted(folder.glob("*/manage.py"))):
        if path.is_file() and path.parent.name not in NO_CODE:
            yield path


def django_apps(manage: Path) -> Iterator[Found]:
    """Yield the apps that the settings of a manage.py name, else the usual ones beside them."""
    root = manage.parent
    module = _text_in(manage, SETTINGS_MODULE)
    package = module.partition(".")[0]
    if not package:
        return
    settings = list(_settings_files(root, module))
    named = [_text_in(file, key) for key in ("ASGI_APPLICATION", "WSGI_APPLICATION")
             for file in settings]  # fmt: skip
    asgi_wanted = any("channels" in _source(file) or "daphne" in _source(file) for file in settings)
    paths = [path for path in named if path]
    paths += [f"{package}.wsgi.application", f"{package}.asgi.application"]
    paths.sort(key=lambda path: ("asgi" in path) != asgi_wanted)
    for path in dict.fromkeys(paths):
        dotted, _, name = path.rpartition(".")
        file = root.joinpath(*dotted.split(".")).with_suffix(".py")
        if not file.is_file():
            continue
        for entry in _points(file):
            if entry.call == name:
                yield Found(f"{dotted}:{name}", root, file, entry)


def _settings_files(root: Path, module: str) -> Iterator[Path]:
    """The settings' module, or all of a package of settings."""
    path = root.joinpath(*module.split("."))
    for one in (path.with_suffix(".py"), *sorted(path.parent.glob("*.py")), *path.glob("*.py")):
        if one.is_file() and (one.stem == path.name or "settings" in str(one)):
            yield one


# ---- the venv


def venv_near(folder: Path, root: Path) -> Path | None:
    """A virtual environment in the project, beside it or where the app is."""
    for place in dict.fromkeys((root, folder, folder.parent)):
        for name in VENVS:
            if (place / name / "pyvenv.cfg").is_file():
                return place / name
    return None


def venv_version(venv: Path) -> str:
    """The newest Python version of a venv, as "3.11", from its folders; empty if it has none."""
    found: list[str] = []
    with suppress(PermissionError):
        found += [path.name.removeprefix("python") for path in venv.glob("lib/python3.*")]
    return max(found, key=_numbers, default="")


def too_old(version: str) -> bool:
    return _numbers(version) < OLDEST


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _has_uvicorn(venv: Path | None) -> bool:
    inside = venv is not None and any(venv.glob("lib/python3*/site-packages/uvicorn"))
    return inside or Path("/usr/lib/python3/dist-packages/uvicorn").is_dir()


def relative(path: Path, root: Path) -> str:
    """A path as it is written below `directory`, or whole."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


# ---- what else a service needs


def _environment(folder: Path, project: Project) -> None:
    file = folder / ".env"
    if not file.is_file():
        return
    try:
        parse(file.read_text(encoding="utf-8"))
    except BadValueError as error:
        place, text = error.found[0]
        project.notes.append(f"{file} is left out: {place} {text}")
    except (OSError, UnicodeDecodeError):
        project.notes.append(f"{file} is left out: it cannot be read")
    else:
        project.chosen["env_file"] = Choice(str(file), "it is there; the workers read it")


def _writes(root: Path, project: Project) -> None:
    """A note for SQLite in the project's folder, which the service cannot write to."""
    for path in python_files(root):
        source = _source(path)
        if path.stem in ("settings", "base", "config", "app", "main") and (
            "backends.sqlite3" in source or "sqlite:///" in source
        ):
            project.notes.append(
                f"{path} names an SQLite database. The service may write to $STATE_DIRECTORY only "
                f"(/var/lib/prefork-sd/{project.name}): put it there, or see docs/hardening.md"
            )
            return


# ---- files


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the project's own sources, near ones first; no tests, no virtual environments."""
    level, seen = [folder], 0
    for _ in range(DEPTH_MAX + 1):
        below: list[Path] = []
        for place in level:
            for entry in _listed(place):
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    below += [path] if _holds_code(path) else []
                elif path.suffix == ".py" and not NO_SERVICE.fullmatch(path.stem):
                    seen += 1
                    if seen > FILES_MAX:
                        return
                    yield path
        level = below


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []


def _holds_code(folder: Path) -> bool:
    name = folder.name
    other = name.startswith(".") or name in NO_CODE or NO_SERVICE.fullmatch(name)
    return not (other or (folder / "pyvenv.cfg").exists())


def _source(path: Path) -> str:
    """A source's text; empty where it cannot be had."""
    try:
        if path.stat().st_size > SIZE_MAX:
            return ""
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _points(path: Path) -> list[EntryPoint]:
    """What a file can serve; nothing, if it is not of this Python, or a template."""
    try:
        return entry_points(_source(path))
    except (SyntaxError, ValueError, RecursionError):
        return []


def _text_in(path: Path, name: str) -> str:
    try:
        return text_of(_source(path), name)
    except (SyntaxError, ValueError, RecursionError):
        return ""
