"""Where services are declared: finding NAME.yaml, reading it with its lines, and the templates."""

import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from prefork_sd.config import AS_WRITTEN, FOLDERS, SETTINGS
from prefork_sd.errors import ConfigError, Problem
from prefork_sd.settings import shown
from prefork_sd.units import EXECUTABLE
from prefork_sd.values import nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SIZE_MAX = 1 << 20  # bytes of YAML
DEPTH_MAX = 20  # collections within each other

_GLUED = re.compile(r" *(?P<key>[A-Za-z_][A-Za-z0-9_]*):(?!//)(?P<value>[^\s:].*)")

Loader: "type[yaml.SafeLoader | yaml.CSafeLoader]" = (  # not every yaml has the latter
    yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
)
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_WRITTEN = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}


def folders() -> tuple[Path, ...]:
    """The folders of NAME.yaml files, the one that wins first ($PREFORK_SD_CONFIG_PATH)."""
    path = os.environ.get("PREFORK_SD_CONFIG_PATH")
    return tuple(Path(folder) for folder in (path.split(":") if path else FOLDERS) if folder)


def services() -> dict[str, Path]:
    """The file of each declared name, masked ones included. Names are not checked."""
    found: dict[str, Path] = {}
    for folder in folders():
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except OSError:
            continue  # a folder that is not there declares nothing
        for name in names:
            if name.endswith(".yaml") and not name.startswith("."):
                found.setdefault(name.removesuffix(".yaml"), folder / name)
    return found


def masked(path: Path) -> bool:
    """Whether the file only hides one of the same name: empty, or a link to /dev/null."""
    try:
        info = path.stat()
    except OSError:
        return False  # whoever reads it will hear why
    return info.st_size == 0 if stat.S_ISREG(info.st_mode) else path.resolve() == Path(os.devnull)


def find(name_or_path: str) -> tuple[str, Path]:
    """The name and the file of a service, from its name or from the path of its YAML file.

    A text with a slash or ending in .yaml or .yml is a path. Raises ConfigError where there is no
    such service, or where it is masked.
    """
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path).absolute()
        if not str(path).isprintable():
            raise ConfigError(Problem(f"{str(path)!r} is no path for a configuration"))
        return _checked(path.stem, name_or_path), path
    name = _checked(name_or_path, "")
    for folder in folders():
        path = folder / f"{name}.yaml"
        if os.path.lexists(path):
            if masked(path):
                raise ConfigError(Problem("masks this service: the file is empty", file=str(path)))
            return name, path
    looked = ", ".join(map(str, folders()))
    hint = nearest(name, services())
    for stray in misnamed():
        if stray.stem == name:
            hint = f"; there is {stray}, which has to end in .yaml"
    raise ConfigError(Problem(f"there is no {name}.yaml in {looked}{hint}"))


def misnamed() -> Iterator[Path]:
    """Yield the files that somebody may take for services: NAME.yml."""
    for folder in folders():
        yield from sorted(folder.glob("[!.]*.yml"))


def _checked(name: str, file: str) -> str:
    if not NAME.fullmatch(name):
        text = f'"{name}" cannot be the name of a service: use letters, digits, ".", "_" and "-"'
        raise ConfigError(Problem(text, file=file))
    return name


def read(path: Path) -> tuple[dict[str, object], dict[str, int]]:
    """The top level of a YAML file as (values, lines); `lines` has dotted keys, from line 1.

    Raises ConfigError for a file that cannot be read, is no YAML, or has a key twice.
    """
    file = str(path)
    text = _text(path)
    loader = Loader(text)
    try:
        _check_depth(text, file)
        root = loader.get_single_node()
        if root is None:
            return {}, {}
        if not isinstance(root, yaml.MappingNode):
            line = root.start_mark.line + 1
            raise ConfigError(Problem("must be a mapping of settings", file=file, line=line))
        lines: dict[str, int] = {}
        problems = [Problem(text, key, file, line) for key, text, line in _walk(root, lines)]
        if problems:
            raise ConfigError(*problems)
        return dict(loader.construct_document(root)), lines
    except yaml.YAMLError as error:
        raise ConfigError(_syntax(error, file, text)) from None
    finally:
        loader.dispose()


def _check_depth(text: str, file: str) -> None:
    """Composing nodes recurses in C, without a limit of its own but the end of the stack."""
    depth = 0
    for event in yaml.parse(text, Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise ConfigError(Problem(f"has more than {DEPTH_MAX} levels", file=file))


def _text(path: Path) -> str:
    file = str(path)
    try:
        # without O_NONBLOCK the open of a fifo would wait for its writer
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as stream:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise ConfigError(Problem("is not a regular file", file=file))
            content = stream.read(SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(Problem(f"cannot be read: {error.strerror}", file=file)) from None
    if len(content) > SIZE_MAX:
        raise ConfigError(Problem("is larger than 1 MiB", file=file))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(Problem("is not UTF-8", file=file, line=line)) from None


def _walk(
    node: yaml.MappingNode, lines: dict[str, int], above: str = ""
) -> Iterator[tuple[str, str, int]]:
    """Note the line of each key; yield (key, text, line) for keys that cannot be.

    Keys become text whatever YAML makes of them (`ON` is no boolean here), and so do the numbers
    below the settings that want them as written.
    """
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            yield above, "has a key that is not text", line
            continue
        if key.tag == _MERGE:
            continue
        key.tag = _TEXT
        dotted = f"{above}.{key.value}" if above else key.value
        if dotted in lines:
            yield dotted, f"is here twice; first in line {lines[dotted]}", line
            continue
        lines[dotted] = line
        if dotted.partition(".")[0] in AS_WRITTEN:
            _keep_written(value)
        if isinstance(value, yaml.MappingNode) and value.start_mark.index > key.start_mark.index:
            yield from _walk(value, lines, dotted)


def _keep_written(value: yaml.Node) -> None:
    items = value.value if isinstance(value, yaml.SequenceNode) else [value]
    for item in items:
        if isinstance(item, yaml.ScalarNode) and item.tag in _WRITTEN:
            item.tag = _TEXT


def _syntax(error: yaml.YAMLError, file: str, text: str) -> Problem:
    line = 0
    what = "is not YAML"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        what = ", ".join(part for part in (error.context, error.problem) if part)
        if error.context_mark and error.context == "while scanning a simple key":
            line = error.context_mark.line + 1
            what = 'here belongs "name: value"'
        elif error.context_mark and error.context == "while scanning a quoted scalar":
            line = error.context_mark.line + 1
            what = "the quote that opens here is not closed"
        # a nested one is taken for text, and noticed by the line after it
        begins = line - ("mapping values are not allowed" in str(error.problem))
        if match := _GLUED.fullmatch(text, *_span(text, begins)):
            return Problem(f"{_slip(match)} needs a space after the colon", "", file, begins)
    elif isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        what = "has a character that YAML does not allow"
    return Problem(f"not valid YAML: {what}", file=file, line=line)


def _span(text: str, line: int) -> tuple[int, int]:
    """Where a line begins and ends, counted from 1."""
    lines = text.split("\n")[:line]
    end = len("\n".join(lines))
    return end - len(lines[-1] if lines else ""), end


def _slip(glued: re.Match[str]) -> str:
    """What was written, without the value where that may be a secret."""
    known = SETTINGS.get(glued["key"])
    return shown(glued[0].strip() if known and not known.kind.secret else f"{glued['key']}:")


def templates() -> dict[str, str]:
    """The texts of systemd/service.in and systemd/socket.in, as "service" and "socket"."""
    here = Path(__file__).parent
    installed = here / "templates"
    folder = installed if installed.is_dir() else here.parent / "systemd"
    return {
        name: (folder / f"{name}.in").read_text(encoding="utf-8") for name in ("service", "socket")
    }


def executable() -> str:
    """The command of this Python: Debian's, or that of the virtual environment we are in."""
    beside = Path(sys.executable).with_name("prefork-sd")
    return str(beside) if beside.exists() else EXECUTABLE
