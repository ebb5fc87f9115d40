"""Hooks that misbehave: on record by their name, and contained, unless they may refuse."""

import logging
import sys
from collections.abc import Callable
from dataclasses import fields

import pytest

from prefork_sd.errors import HookError
from prefork_sd.guarded import BOOT, guarded
from prefork_sd.hooks import ARITY, REFUSING, Hooks, nothing

LOG = logging.getLogger("test.guarded")
CONTAINED = sorted(set(ARITY) - REFUSING)


def failing(error: BaseException) -> Callable[..., None]:
    def hook(*arguments: object) -> None:
        raise error

    return hook


@pytest.mark.parametrize("name", CONTAINED)
def test_what_a_hook_raises_is_on_record_with_its_name(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = guarded(Hooks(**{name: failing(ValueError("on purpose"))}), LOG)
    getattr(hooks, name)(*range(ARITY[name]))
    [record] = caplog.records
    assert record.getMessage() == f"hook {name} failed: ValueError: on purpose"
    assert record.exc_info
    assert vars(record)["PREFORK_SD_HOOK"] == name


@pytest.mark.parametrize("name", sorted(set(CONTAINED) - BOOT))
def test_a_hook_that_exits_takes_nobody_with_it(name: str) -> None:
    hooks = guarded(Hooks(**{name: lambda *arguments: sys.exit(1)}), LOG)
    getattr(hooks, name)(*range(ARITY[name]))


@pytest.mark.parametrize("name", sorted(BOOT))
def test_a_hook_of_the_boot_may_end_it(name: str) -> None:
    hooks = guarded(Hooks(**{name: lambda *arguments: sys.exit(1)}), LOG)
    with pytest.raises(SystemExit):
        getattr(hooks, name)(*range(ARITY[name]))


@pytest.mark.parametrize("name", sorted(REFUSING))
@pytest.mark.parametrize("error", [ValueError("on purpose"), SystemExit("on purpose")])
def test_a_hook_that_may_refuse_does(name: str, error: BaseException) -> None:
    hooks = guarded(Hooks(**{name: failing(error)}), LOG)
    with pytest.raises(HookError, match=f"hook {name} refused: {type(error).__name__}: on purpose"):
        getattr(hooks, name)(*range(ARITY[name]))


def test_a_hook_gets_its_arguments_and_its_answer_is_nobodys() -> None:
    seen: list[object] = []
    hooks = guarded(Hooks(nworkers_changed=lambda *arguments: seen.extend(arguments)), LOG)
    assert hooks.nworkers_changed("server", 3, None) is None
    assert seen == ["server", 3, None]


def test_where_no_hook_is_set_nothing_is_called() -> None:
    hooks = guarded(Hooks(), LOG)
    assert all(getattr(hooks, field.name) is nothing for field in fields(hooks))
