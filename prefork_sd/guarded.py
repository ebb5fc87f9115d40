"""Server hooks as they may be called: what one raises goes on record and no further."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

from prefork_sd import journal
from prefork_sd.errors import HookError
from prefork_sd.hooks import REFUSING, Hooks, nothing

BOOT = frozenset({"post_fork", "post_worker_init"})  # sys.exit() in these fails the boot


def guarded(hooks: Hooks, log: logging.Logger) -> Hooks:
    """The same hooks, contained. Those that may refuse raise HookError, which says which one."""
    wrapped: dict[str, Any] = {}
    for field in dataclasses.fields(hooks):
        function = getattr(hooks, field.name)
        if function is not nothing:
            wrap = _refusing if field.name in REFUSING else _contained
            wrapped[field.name] = wrap(field.name, function, log)
    return dataclasses.replace(hooks, **wrapped)


def _contained(
    name: str, function: Callable[..., object], log: logging.Logger
) -> Callable[..., None]:
    contained = (Exception,) if name in BOOT else (Exception, SystemExit)

    @functools.wraps(function)
    def call(*arguments: object) -> None:
        try:
            function(*arguments)
        except contained as error:
            log.exception(
                "hook %s failed: %s: %s",
                name,
                type(error).__name__,
                error,
                extra=journal.fields(journal.Event.HOOK_FAILED, PREFORK_SD_HOOK=name),
            )

    return call


def _refusing(
    name: str, function: Callable[..., object], _log: logging.Logger
) -> Callable[..., None]:
    @functools.wraps(function)
    def call(*arguments: object) -> None:
        try:
            function(*arguments)
        except (Exception, SystemExit) as error:
            text = f"hook {name} refused: {type(error).__name__}: {error}"
            raise HookError(text) from error

    return call
