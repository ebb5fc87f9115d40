"""Whether a virtual environment can be used."""

import os
from collections.abc import Iterator
from pathlib import Path

from prefork_sd.checks.finding import Finding
from prefork_sd.project import too_old, venv_version
from prefork_sd.venvs import ABSENT, NO_VENV, recipe


def venv_findings(venv: Path) -> Iterator[Finding]:
    """Yield what is wrong with a virtual environment, seen from outside."""
    key = f"venv: {venv}"
    anew = f"{recipe(venv)}, and install the app's packages there"
    python = venv / "bin" / "python"
    if not os.path.lexists(python):
        real = os.path.realpath(venv)
        leads = f"leads to {real}, which " if real != os.path.normpath(venv) else ""
        what = leads + (NO_VENV if os.access(venv, os.F_OK) else ABSENT)
        why = "the app's packages are looked for there"
        yield Finding(f"{key} {what}", why, anew, stops=True, missing=True)
        return
    version = venv_version(venv)
    if not version:
        yield Finding(f"{key} has no lib/python3.*", "it has no packages", anew)
    elif too_old(version):
        text = f"{key} is of Python {version}"
        yield Finding(text, "3.11 is the oldest that will do", anew)
    if not os.access(python, os.X_OK):
        target = os.path.realpath(python)
        why = "the Python that it was made with was replaced, by an upgrade of the system say"
        what = f"{key} has no Python that runs: {python} leads to {target}"
        if not os.path.lexists(target):
            gone = f"bin/python leads to {target}, which {ABSENT}"
            what = f"venv: the interpreter of {venv} is gone: {gone}"
        yield Finding(what, why, anew, stops=True, missing=True)
