"""Python's import system: where an app's code is looked for, and how its objects are had."""

import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from prefork_sd.errors import AppImportError

HOUSE = os.path.dirname(sys._getframe().f_code.co_filename) + os.sep  # noqa: PTH120 (as frames say)
WSGI, ASGI = "WSGI", "ASGI"  # what an app can be
USUAL_NAMES = ("application", "app", "wsgi", "create_app", "make_app")
TEXT_MAX = 300  # characters


def search_first(folders: Iterable[Path]) -> None:
    """Make `import` look into `folders` first."""
    own = [str(folder) for folder in folders]
    sys.path[:] = own + [path for path in sys.path if path not in own]
    importlib.invalidate_caches()


def _forget(where: Callable[[str], bool]) -> dict[str, ModuleType]:
    """Take the modules of such files out of sys.modules; the next import reads them anew."""
    found = {
        name: module
        for name, module in list(sys.modules.items())
        if any(map(where, _places(module)))
    }
    for name in found:
        del sys.modules[name]
    return found


def _places(module: ModuleType) -> list[str]:
    """The file of a module, or the folders of a namespace package."""
    spec = getattr(module, "__spec__", None)
    if spec is None or not spec.has_location:
        return [os.path.join(folder, "") for folder in getattr(module, "__path__", ())]  # noqa: PTH118
    return [spec.origin]


@contextmanager
def apart(folders: Iterable[Path], packages: Path | None) -> Iterator[None]:
    """Import from `folders` and `packages` afresh inside, and leave no trace of it outside.

    Modules from `folders` are read anew and forgotten afterwards; sys.path is as it was.
    """
    path = sys.path[:]
    own = tuple(os.path.join(folder, "") for folder in folders)  # noqa: PTH118
    kept = _forget(lambda file: file.startswith(own))
    sys.path[:0] = [*map(str, folders), *([str(packages)] if packages else [])]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        _forget(lambda file: file.startswith(own))
        sys.modules.update(kept)


def import_object(path: str) -> object:
    """The object that `module:name`, `module.name` or `module:name()` names; () calls it.

    Raises AppImportError: its text is one line that says what is missing or what was raised, its
    details are the traceback without the import system's frames and without ours.
    """
    call = path.endswith("()")
    bare = path.removesuffix("()")
    module_name, _, name = bare.partition(":") if ":" in bare else bare.rpartition(".")
    cannot = f'cannot import "{path}"'
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        looked = ""
        if f"{module_name}.".startswith(f"{missing}."):
            looked = f" (looked in {', '.join(_folders())})"
        raise AppImportError(_line(f"{cannot}: {said(error)}{looked}"), trimmed(error)) from error
    except (Exception, SystemExit) as error:
        raise AppImportError(_line(f"{cannot}: {said(error)}"), trimmed(error)) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            text = f'{cannot}: "{module_name}" has no "{part}"{_instead(found, part)}'
            raise AppImportError(_line(text), "") from error
    if not call:
        return found
    if not callable(found):
        raise AppImportError(_line(f"{cannot}: it is {_kind(found)} and cannot be called"))
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise AppImportError(_line(f'"{path}" failed: {said(error)}'), trimmed(error)) from error


def app_callable(path: str) -> Callable[..., Any]:
    """The app that `module:callable` or `module:factory()` names: WSGI (PEP 3333) or ASGI 3.

    Raises AppImportError as `import_object` does, and for what cannot be such an app.
    """
    app = import_object(path)
    if not callable(app):
        raise AppImportError(_line(f'"{path}" is {_kind(app)}, not a callable'))
    if _takes(app, 0) and not _takes(app, 2):
        hint = "it returns another app" if path.endswith("()") else f'write "{path}()"'
        raise AppImportError(_line(f'"{path}" takes no arguments: if it makes the app, {hint}'))
    return app


def interface_of(app: Callable[..., object]) -> str:
    """WSGI or ASGI, by what it takes: (environ, start_response) or (scope, receive, send)."""
    call = app if inspect.isroutine(app) else getattr(app, "__call__", app)  # noqa: B004
    awaits = inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call)
    return ASGI if _takes(app, 3) and (awaits or not _takes(app, 2)) else WSGI


def _takes(function: Callable[..., object], count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True  # built into C without a signature
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _instead(module: object, missing: str) -> str:
    """The end of a message: callables of `module` that may have been meant."""
    names = (
        [
            name
            for name, value in vars(module).items()
            if callable(value) and not name.startswith("_")
        ]
        if isinstance(module, ModuleType)
        else []
    )
    close = difflib.get_close_matches(missing, names, n=3)
    usual = [name for name in USUAL_NAMES if name in names and name not in close]
    found = [
        f'"{name}()"' if name.endswith("_app") else f'"{name}"' for name in (close + usual)[:3]
    ]
    return f"; it has {', '.join(found)}" if found else ""


def _folders() -> list[str]:
    """What of sys.path is not the system's own."""
    system = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    return [path or "." for path in sys.path if not path.startswith(system)] or ["the system"]


def said(error: BaseException) -> str:
    """An exception as one line: "ValueError: text". A group of one is that one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, SyntaxError):  # its text has the place, which the last line has not
        return _line(f"{type(error).__name__}: {error}")
    return _line(traceback.format_exception_only(error)[-1])


def _line(text: str) -> str:
    line = re.sub(r"\s+", " ", text).strip()
    return line if len(line) <= TEXT_MAX else f"{line[: TEXT_MAX - 3]}..."


def trimmed(error: BaseException) -> str:
    """The traceback of an error, from the first frame of the app on."""
    report = traceback.TracebackException.from_exception(error)
    seen: list[traceback.TracebackException] = [report]
    for part in seen:
        part.stack[:] = [frame for frame in part.stack if not _ours(frame.filename)]
        seen += [cause for cause in (part.__cause__, part.__context__) if cause is not None]
    return "".join(report.format())


def _ours(file: str) -> bool:
    return file.startswith((HOUSE, "<frozen importlib")) or file == importlib.__file__
