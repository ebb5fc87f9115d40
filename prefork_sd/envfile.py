"""The grammar of environment files: KEY=VALUE lines as in EnvironmentFile= of systemd.exec(5)."""

import re

from prefork_sd.settings import ENV_NAME, BadValueError

_ASSIGNMENT = re.compile(
    r"""
    [ \t]* (?P<name>[^=\n]*?) [ \t]* = [ \t]*
    (?P<value> (?: '[^']*' | "(?:\\.|[^"\\])*" | \\. | [^\n'"\\] )* )
    (?P<rest> [^\n]* )
    """,
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(
    r"""
    '(?P<single>[^']*)' | "(?P<double>(?:\\.|[^"\\])*)" | \\(?P<escaped>.) | (?P<bare>[^'"\\]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_EXPORTED = re.compile(rf"export[ \t]+{ENV_NAME.pattern}")
_IGNORED = re.compile(r"[ \t]*(?:[#;][^\n]*)?(?:\n|\Z)")


def parse(text: str) -> dict[str, str]:
    """The variables of an environment file.

    Quotes group, a backslash at the end of a line joins it with the next, lines that begin with
    "#" or ";" are comments. Raises BadValueError with ("line N", text) for each line that is no
    assignment; no text repeats a value, which may be a secret.
    """
    values: dict[str, str] = {}
    wrong: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        if ignored := _IGNORED.match(text, at):
            at = max(ignored.end(), at + 1)
            continue
        line = text.count("\n", 0, at) + 1
        match = _ASSIGNMENT.match(text, at)
        if match is None:
            wrong.append((f"line {line}", "must be KEY=VALUE"))
            at = _next_line(text, at)
            continue
        if _EXPORTED.fullmatch(match["name"]):
            wrong.append((f"line {line}", 'leave out "export": no shell reads this'))
        elif not ENV_NAME.fullmatch(match["name"]):
            wrong.append((f"line {line}", "does not begin with the name of a variable"))
        elif match["rest"] or "\0" in match["value"]:
            wrong.append((f"line {line}", "has a quote that is not closed, or a NUL character"))
        else:
            values[match["name"]] = _unquoted(match["value"])
        at = match.end() + 1
    if wrong:
        raise BadValueError(*wrong)
    return values


def _next_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _unquoted(value: str) -> str:
    parts = list(_PIECE.finditer(value))
    text = ""
    for number, part in enumerate(parts):
        if part["single"] is not None:
            text += part["single"]
        elif part["double"] is not None:
            text += re.sub(r'\\(["\\`$\n])', lambda m: "" if m[1] == "\n" else m[1], part["double"])
        elif part["escaped"] is not None:
            text += "" if part["escaped"] == "\n" else part["escaped"]
        else:
            last = number == len(parts) - 1
            text += part["bare"].rstrip() if last else part["bare"]
    return text
