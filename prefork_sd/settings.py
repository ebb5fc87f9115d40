"""What a setting is: how its value is read, its bounds, its words, and its JSON Schema.

A reader takes a value as a person wrote it (in YAML or on a command line, where everything is
text) and returns the one typed form that the rest of the house sees, or raises `BadValueError`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST = 7 * 86400.0  # seconds; poll(2) counts milliseconds in 31 bits

TIME_UNITS = {
    "us": 1e-6,
    "ms": 1e-3,
    "": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
FLAGS = {
    **dict.fromkeys(("yes", "true", "on", "1"), True),
    **dict.fromkeys(("no", "false", "off", "0"), False),
}

_TIME_PART = r"([0-9]+(?:\.[0-9]+)?) *(us|ms|sec|s|min|m|h|d|)"
TIME = re.compile(rf"{_TIME_PART}(?: +{_TIME_PART})*")
TIME_PARTS = re.compile(_TIME_PART)
SIZE = re.compile(r"([0-9]+) *([KMGTkmgt]?)(?:i?B)?")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BadValueError(ValueError):
    """A value cannot be taken. `found` has (key below the setting's own, text) for each reason."""

    def __init__(self, *found: tuple[str, str]) -> None:
        super().__init__("; ".join(text for _, text in found))
        self.found = found


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to read values, and the JSON Schema of what it reads.

    `as_written` asks the YAML reader to hand over numbers and dates as the text that a person
    typed (0660, 1.10), because their meaning is in the digits. `unit` is the unit of measure of
    what it reads. A value that is `secret` stays out of messages and logs.
    """

    read: Callable[[object, "Setting"], object]
    schema: Callable[["Setting"], dict[str, object]]
    as_written: bool = False
    unit: str = ""
    secret: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as declared: all that YAML, --help, the documents and the schema need.

    `default` is in the written form ("30s", "1M", "auto"), `unit` is the unit of measure.
    """

    name: str = ""
    kind: Kind
    default: object
    help: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    example: object = None


def setting(
    default: object,
    kind: Kind,
    *,
    help: str,
    unit: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    example: object = None,
) -> Any:
    """A dataclass field for a setting. `default` is written as a person would write it."""
    declared = Setting(
        kind=kind,
        default=default,
        help=help,
        unit=unit or kind.unit,
        at_least=at_least,
        at_most=at_most,
        choices=choices,
        example=example,
    )
    return dataclasses.field(
        default_factory=lambda: kind.read(default, declared),
        repr=not kind.secret,
        metadata={"setting": declared},
    )


def declared(cls: type) -> tuple[Setting, ...]:
    """The settings of a dataclass made of `setting()` fields, in their order."""
    return tuple(
        dataclasses.replace(field.metadata["setting"], name=field.name)
        for field in dataclasses.fields(cls)
    )


def shown(value: object) -> str:
    """A value as part of a message: as YAML has it, short, on one line."""
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    if value is None or isinstance(value, bool):
        text = {None: "nothing", True: "yes", False: "no"}[value]
    text = CONTROL.sub("?", text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def each(value: object, what: str, read: Callable[[str, object], T]) -> dict[str, T]:
    """Read every item of a mapping with text keys, or raise all that is wrong with it.

    `what` ends the message "must be ..." where the value is no such mapping.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise BadValueError(("", f"must be {what}"))
    values: dict[str, T] = {}
    wrong: list[tuple[str, str]] = []
    for key, item in value.items():
        try:
            values[key] = read(key, item)
        except BadValueError as error:
            wrong += [(".".join(filter(None, (key, sub))), text) for sub, text in error.found]
    if wrong:
        raise BadValueError(*wrong)
    return values


# Readers


def read_text(value: object, setting: Setting) -> str:
    """Text on one line; one of the choices where there are any."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadValueError(("", f"must be text, not {shown(value)}"))
    if CONTROL.search(value):
        raise BadValueError(("", "must be one line without control characters"))
    if setting.choices and value not in setting.choices:
        raise BadValueError(
            ("", f"must be one of {', '.join(setting.choices)}, not {shown(value)}")
        )
    return value


def read_path(value: object, setting: Setting) -> str:
    """A path; a leading "~" is refused, because whose home it would be depends on who starts."""
    path = read_text(value, setting)
    if path.startswith("~"):
        raise BadValueError(("", f"must be a path without ~, not {shown(value)}"))
    return path


def read_texts(value: object, setting: Setting) -> tuple[str, ...]:
    """A list of text, or one text."""
    if not isinstance(value, list | tuple):
        value = [value]
    return tuple(read_text(item, setting) for item in value)


def read_flag(value: object, _setting: Setting) -> bool:
    """A boolean in any spelling of systemd.syntax(7)."""
    flag = FLAGS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise BadValueError(("", f"must be yes or no, not {shown(value)}"))
    return flag


def read_whole(value: object, setting: Setting) -> int:
    """A whole number within the bounds."""
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        number = int(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadValueError(("", f"must be a whole number, not {shown(value)}"))
    within(number, setting, str(value))
    return number


def read_seconds(value: object, setting: Setting) -> float:
    """A number of seconds, or text like "90s", "5min", "1min 30s", "500ms"."""
    if isinstance(value, str) and TIME.fullmatch(value.strip()):
        parts = TIME_PARTS.findall(value)
        seconds = sum(float(count) * TIME_UNITS[unit] for count, unit in parts)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        seconds = float(value)
    else:
        raise BadValueError(("", f'must be a time like 30, "30s" or "5min", not {shown(value)}'))
    if setting.at_most is None and seconds > LONGEST:
        raise BadValueError(("", f"must be at most {LONGEST / 86400:g} days, not {shown(value)}"))
    within(seconds, setting, str(value))
    return seconds


def read_size(value: object, setting: Setting) -> int:
    """A number of bytes, or text like "64K", "1M", "1G" (1024-based)."""
    if isinstance(value, str) and (match := SIZE.fullmatch(value.strip())):
        size = int(match[1]) * SIZE_UNITS[match[2].upper()]
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise BadValueError(("", f'must be a size like 65536, "64K" or "1G", not {shown(value)}'))
    within(size, setting, str(value))
    return size


def read_env(value: object, _setting: Setting) -> dict[str, str]:
    """A mapping of environment variables. No message repeats a value: it may be a secret."""

    def one(name: str, item: object) -> str:
        if not ENV_NAME.fullmatch(name):
            raise BadValueError(("", "is not a name for an environment variable"))
        if isinstance(item, bool):
            raise BadValueError(("", 'YAML reads this as yes or no; put it in quotes, like "yes"'))
        if item is None:
            raise BadValueError(("", 'has no value; write "" for an empty one'))
        if not isinstance(item, str | int | float):
            raise BadValueError(("", "must be text"))
        if "\0" in str(item):
            raise BadValueError(("", "must not contain a NUL character"))
        return str(item)

    return each(value, "a mapping of names to text", one)


def within(number: float, setting: Setting, written: str) -> None:
    """Raise `BadValueError` where a number is out of the setting's bounds."""
    unit = f" {setting.unit}" if setting.unit else ""
    if setting.at_least is not None and number < setting.at_least:
        raise BadValueError(("", f"must be at least {setting.at_least:g}{unit}, not {written}"))
    if setting.at_most is not None and number > setting.at_most:
        raise BadValueError(("", f"must be at most {setting.at_most:g}{unit}, not {written}"))


# JSON Schemas


def bounded(kind: str, setting: Setting) -> dict[str, object]:
    """The schema of a number with the setting's bounds."""
    bounds = {"minimum": setting.at_least, "maximum": setting.at_most}
    return {"type": kind, **{key: bound for key, bound in bounds.items() if bound is not None}}


def text_schema(setting: Setting) -> dict[str, object]:
    """The schema of a text, or of one of its choices."""
    return {"enum": list(setting.choices)} if setting.choices else {"type": "string"}


def number_or_text(kind: str, pattern: re.Pattern[str]) -> Callable[[Setting], dict[str, object]]:
    """The schema of a number that may also be written as text with units."""
    text = {"type": "string", "pattern": f"^({pattern.pattern})$"}
    return lambda setting: {"anyOf": [bounded(kind, setting), text]}


TEXT = Kind(read_text, text_schema, as_written=True)
PATH = Kind(read_path, text_schema, as_written=True)
TEXTS = Kind(
    read_texts,
    lambda _: {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    as_written=True,
)
FLAG = Kind(read_flag, lambda _: {"type": "boolean"})
WHOLE = Kind(read_whole, lambda setting: bounded("integer", setting))
SECONDS = Kind(read_seconds, number_or_text("number", TIME), unit="seconds")
BYTES = Kind(read_size, number_or_text("integer", SIZE), unit="bytes")
ENV = Kind(
    read_env,
    lambda _: {
        "type": "object",
        "propertyNames": {"pattern": f"^{ENV_NAME.pattern}$"},
        "additionalProperties": {"type": ["string", "number"]},
    },
    as_written=True,
    secret=True,
)
