"""The hooks: every one has a no-op, and what is called with the wrong arguments is found."""

from dataclasses import fields
from typing import Any

import pytest

from prefork_sd.hooks import ARGUMENTS, ARITY, REFUSING, Hooks, check


def test_there_is_one_field_a_hook_and_each_takes_its_arguments() -> None:
    assert [field.name for field in fields(Hooks)] == list(ARITY)
    for name, count in ARITY.items():
        getattr(Hooks(), name)(*range(count))
    assert set(ARITY) >= REFUSING


@pytest.mark.parametrize("name", ARITY)
def test_arity_is_checked(name: str) -> None:
    exact = eval(f"lambda {', '.join(ARGUMENTS[name])}: None")
    more = eval(f"lambda {', '.join([*ARGUMENTS[name], 'surplus'])}: None")
    assert check(name, exact) is None
    assert check(name, lambda *_: None) is None
    wrong = check(name, more)
    assert wrong is not None
    assert f"must take {name}({', '.join(ARGUMENTS[name])})" in wrong
    assert check(name, lambda: None) is not None


def test_keyword_only_arguments_without_a_default_are_refused() -> None:
    def hook(server: Any, *, more: int) -> None: ...

    assert check("on_exit", hook) is not None


def test_what_cannot_be_called_is_refused() -> None:
    async def later(server: Any) -> None: ...

    assert "not str" in (check("on_exit", "text") or "")
    assert "not an async one" in (check("on_exit", later) or "")


def test_methods_and_callable_objects_are_functions_too() -> None:
    class Counter:
        def __call__(self, server: Any) -> None: ...

    assert check("on_exit", Counter()) is None
    assert check("on_exit", [].append) is None
