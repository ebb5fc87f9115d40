"""Runs a gunicorn.conf.py as gunicorn does, in a process of its own, and has its names.

As a program it is that process: run by the Python that the configuration is for, it imports
nothing of ours, and writes JSON to its standard output.
"""

import inspect
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

TIMEOUT = 30.0  # seconds


def run(file: Path, python: str, directory: Path) -> tuple[dict[str, Any], dict[str, int], str]:
    """(settings, functions with the number of their arguments, what it printed or raised).

    The text is empty where all went well. Raises TimeoutError, or OSError where `python` cannot
    be run.
    """
    with subprocess.Popen(
        [python, "-I", __file__, str(file)],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        try:
            out, err = child.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            raise TimeoutError(f"it has not ended within {TIMEOUT:g} s") from None
    if child.returncode:
        return {}, {}, err.strip() or f"it exited with status {child.returncode}"
    found = json.loads(out)
    return found["values"], found["functions"], ""


def plain(value: object) -> Any:
    """A value as JSON has it, or None for what has no such form."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value) if isinstance(value, os.PathLike) else None


def arguments_of(function: object) -> int:
    """How many arguments a function takes; -1 for any number, or where it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return -1
    kinds = [parameter.kind for parameter in parameters]
    return -1 if inspect.Parameter.VAR_POSITIONAL in kinds else len(kinds)


def is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)


def main(file: str) -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the file prints is no answer
    sys.path.insert(0, str(Path.cwd()))
    names: dict[str, Any] = {
        "__builtins__": __builtins__,
        "__name__": "__config__",
        "__file__": file,
        "__doc__": None,
        "__package__": None,
    }
    try:
        exec(compile(Path(file).read_bytes(), file, "exec"), names)
    except Exception as error:  # noqa: BLE001 (anything may come out of the file)
        frames = error.__traceback__ and error.__traceback__.tb_next
        traceback.print_exception(error.with_traceback(frames))
        sys.exit(1)
    own = {name: value for name, value in names.items() if not name.startswith("_")}
    functions = {name: arguments_of(value) for name, value in own.items() if is_function(value)}
    values = {name: plain(value) for name, value in own.items() if name not in functions}
    json.dump({"values": values, "functions": functions}, answer)
    answer.flush()
    os._exit(0)  # not waiting for threads of the file


if __name__ == "__main__":
    main(sys.argv[1])
