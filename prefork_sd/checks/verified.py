"""The directives of `unit`, as the systemd of this machine understands them."""

import re
from collections.abc import Iterator, Mapping

from prefork_sd.checks.finding import Finding

Sections = Mapping[str, Mapping[str, tuple[str, ...]]]
# with what a unit has to have; nothing else of ours, as older ones do without some of that
DRAFTS = {
    "prefork-sd-check.service": ("[Service]", "ExecStart=/bin/true"),
    "prefork-sd-check.socket": ("[Socket]", "ListenStream=/run/prefork-sd-check"),
}
SUFFIXES = {"Socket": ".socket"}  # the other sections are the service's


def drafts(unit: Sections) -> dict[str, str]:
    """Unit files with these directives, for `systemd-analyze verify`, by their names."""
    return {file: "".join(f"{line}\n" for line in _lines(file, unit)) for file in DRAFTS}


def _lines(file: str, unit: Sections) -> Iterator[str]:
    yield from DRAFTS[file]
    for line, _ in _placed(file, unit):
        yield line


def _placed(file: str, unit: Sections) -> Iterator[tuple[str, str]]:
    """Yield (line, its setting); no setting for the heads of sections."""
    for section, found in unit.items():
        if file.endswith(SUFFIXES.get(section, ".service")):
            yield f"[{section}]", ""
            for directive, values in found.items():
                for value in values:
                    yield f"{directive}={value}", f"unit.{section}.{directive}"


def refused(unit: Sections, said: str) -> Iterator[Finding]:
    """Yield what systemd has said of the lines of the drafts, by the settings that they are of."""
    for file, head in DRAFTS.items():
        keys = [*("" for _ in head), *(key for _, key in _placed(file, unit))]
        lines = re.findall(rf"/{re.escape(file)}:(\d+): (.*)$", said, re.MULTILINE)
        for number, text in dict.fromkeys(lines):
            if key := keys[int(number) - 1]:
                why = "systemd reads the unit without this line"
                yield Finding(f"{key}: {text}", why, "correct it: systemd.directives(7)")
