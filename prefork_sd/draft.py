"""A service's YAML file as text with comments, from the settings' one declaration."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefork_sd.config import SETTINGS
from prefork_sd.settings import Setting

WIDTH = 100
USUAL = (  # what most people look for, shown as a comment where it is not set
    "venv",
    "env_file",
    "bind",
    "workers",
    "threads",
    "timeout",
    "user",
    "access_log",
)
# text that every reader of YAML 1.1 takes for text
PLAIN = re.compile(
    r"\.?[A-Za-z_/](?:[A-Za-z0-9_./()+@-]|:(?=[A-Za-z0-9/]))*|[0-9.]+\.[0-9]+:[0-9]+"
)
NO_TEXT = re.compile(r"y|n|yes|no|true|false|on|off|null|\.inf|\.nan", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Choice:
    """A value for a setting, as YAML reads it, and why it is that one."""

    value: object
    why: str = ""


def draft(name: str, chosen: Mapping[str, Choice], *, by: str, remarks: Iterable[str] = ()) -> str:
    """The text of NAME.yaml: what is chosen with its reasons, and the usual rest as comments.

    `by` is the command that makes it. Each remark is a paragraph at the end.
    """
    lines = [*comment(f"{name}.service, served by prefork-sd. All settings: man prefork-sd.yaml")]
    lines += [*comment(f"Made by: {by}")]
    for setting in SETTINGS.values():
        if setting.name in chosen or setting.name in USUAL:
            lines += ["", *_entry(setting, chosen.get(setting.name))]
    for remark in remarks:
        lines += ["", *comment(remark)]
    return "\n".join(lines) + "\n"


def _entry(setting: Setting, choice: Choice | None) -> Iterator[str]:
    yield from comment(setting.help)
    if choice is None:
        shown = setting.default if setting.example is None else setting.example
        yield from (f"#{line}" for line in entry(setting.name, shown))
        return
    if choice.why:
        yield from comment(f"here: {choice.why}")
    yield from entry(setting.name, choice.value)


def comment(text: str) -> Iterator[str]:
    """Lines of a comment, none of them too long."""
    return iter(
        textwrap.wrap(
            " ".join(text.split()),
            WIDTH,
            initial_indent="# ",
            subsequent_indent="# ",
            break_on_hyphens=False,
        )
    )


def entry(key: str, value: object, indent: str = "") -> Iterator[str]:
    """A key and its value in YAML; a mapping goes on in lines below it."""
    if isinstance(value, Mapping) and value:
        yield f"{indent}{key}:"
        for name, item in value.items():
            yield from entry(scalar(str(name)), item, f"{indent}  ")
    else:
        yield f"{indent}{key}: {written(value)}"


def written(value: object) -> str:
    """A value on one line, as YAML reads it back."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return scalar(value)
    if isinstance(value, Mapping):
        pairs = (f"{scalar(str(key))}: {written(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(written, value))}]"
    return str(value)


def scalar(text: str) -> str:
    """A text in YAML, in quotes where it needs them."""
    if PLAIN.fullmatch(text) and not NO_TEXT.fullmatch(text):
        return text
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
