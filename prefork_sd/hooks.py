"""The server hooks: their names, what each is called with, and what runs where none is set."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "on_starting": ("server",),
    "on_reload": ("server",),
    "when_ready": ("server",),
    "pre_fork": ("server", "worker"),
    "post_fork": ("server", "worker"),
    "post_worker_init": ("worker",),
    "worker_int": ("worker",),
    "worker_abort": ("worker",),
    "worker_exit": ("server", "worker"),
    "child_exit": ("server", "worker"),
    "nworkers_changed": ("server", "new", "old"),
    "pre_request": ("worker", "req"),
    "post_request": ("worker", "req", "environ", "resp"),
    "pre_exec": ("server",),
    "on_exit": ("server",),
}
ARITY = {name: len(arguments) for name, arguments in ARGUMENTS.items()}
REFUSING = frozenset({"on_starting", "pre_fork"})  # what these raise stops what was to follow


def nothing(*_arguments: object) -> None:
    """The hook where none is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """One function a hook. The first argument is the arbiter ("server") or the worker."""

    on_starting: Callable[[Any], object] = nothing
    on_reload: Callable[[Any], object] = nothing
    when_ready: Callable[[Any], object] = nothing
    pre_fork: Callable[[Any, Any], object] = nothing
    post_fork: Callable[[Any, Any], object] = nothing
    post_worker_init: Callable[[Any], object] = nothing
    worker_int: Callable[[Any], object] = nothing
    worker_abort: Callable[[Any], object] = nothing
    worker_exit: Callable[[Any, Any], object] = nothing
    child_exit: Callable[[Any, Any], object] = nothing
    nworkers_changed: Callable[[Any, int, int | None], object] = nothing
    pre_request: Callable[[Any, Any], object] = nothing
    post_request: Callable[[Any, Any, Any, Any], object] = nothing
    pre_exec: Callable[[Any], object] = nothing
    on_exit: Callable[[Any], object] = nothing


def check(name: str, function: object) -> str | None:
    """Say what keeps `function` from being the hook `name`; None if it will do."""
    wanted = f"{name}({', '.join(ARGUMENTS[name])})"
    if not callable(function):
        return f"must be a function {wanted}, not {type(function).__name__}"
    if inspect.iscoroutinefunction(function):
        return f"must be a plain function {wanted}, not an async one"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None  # built into C without a signature: the call will tell
    try:
        signature.bind(*ARGUMENTS[name])
    except TypeError:
        return f"must take {wanted}, but takes {signature}"
    return None
