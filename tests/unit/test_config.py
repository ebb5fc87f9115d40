"""The configuration: what is taken, what is refused, and in which words."""

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork_sd.building import build, merge
from prefork_sd.config import AS_WRITTEN, Config, describe, schema
from prefork_sd.errors import ConfigError, ExitCode


def made(**values: object) -> Config:
    return build({"app": "shop:app", **values})


def refused(values: dict[str, object], **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(values, **more)
    assert caught.value.exit_code == ExitCode.CONFIG
    return [str(problem) for problem in caught.value.problems]


def test_defaults_are_those_of_the_declaration() -> None:
    assert build({"app": "a:b"}) == Config(app="a:b")
    defaults = Config()
    assert (defaults.workers, defaults.timeout, defaults.keepalive) == (0, 30.0, 75.0)
    assert (defaults.limit_request_body, defaults.body_buffer) == (1 << 30, 256 << 10)
    assert (defaults.socket_mode, defaults.socket_group) == ("0660", "www-data")
    assert (defaults.enabled, defaults.preload_app) == (True, False)


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().workers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        ("workers", "auto", 0),
        ("workers", 3, 3),
        ("workers", "3", 3),
        ("timeout", 0, 0.0),
        ("timeout", "500ms", 0.5),
        ("timeout", "5min", 300.0),
        ("timeout", "1min 30s", 90.0),
        ("timeout", 1.5, 1.5),
        ("limit_request_body", "64K", 65536),
        ("limit_request_body", "2G", 2 << 30),
        ("limit_request_body", "1MiB", 1 << 20),
        ("limit_request_body", 1048576, 1 << 20),
        ("enabled", "no", False),
        ("enabled", False, False),
        ("access_log", False, "off"),
        ("access_log", "all", "all"),
        ("socket_mode", "660", "0660"),
        ("socket_mode", "0600", "0600"),
        ("bind", 8000, ("127.0.0.1:8000",)),
        ("bind", "localhost:8000", ("127.0.0.1:8000",)),
        ("bind", ["0.0.0.0:80", "[::1]:80"], ("0.0.0.0:80", "[::1]:80")),
        ("bind", ["/run/a.sock", "unix:/run/b.sock"], ("unix:/run/a.sock", "unix:/run/b.sock")),
        ("pythonpath", "lib", ("lib",)),
        ("pythonpath", ["a", "b"], ("a", "b")),
        ("env", {"A": "x", "B": 3}, {"A": "x", "B": "3"}),
        ("hooks", "hooks.py", "hooks.py"),
        ("hooks", {"on_exit": "a.b:c"}, {"on_exit": "a.b:c"}),
        ("worker_class", "shop.workers.Mine", "shop.workers.Mine"),
        ("proc_name", 7, "7"),
        ("user", "1000", "1000"),
        (
            "unit",
            {"Service": {"MemoryMax": "1G", "PrivateTmp": True, "Nice": 5, "A": None, "B": [1, 2]}},
            {
                "Service": {
                    "MemoryMax": ("1G",),
                    "PrivateTmp": ("yes",),
                    "Nice": ("5",),
                    "A": ("",),
                    "B": ("1", "2"),
                }
            },
        ),
    ],
)
def test_values_are_taken_as_people_write_them(key: str, written: object, read: object) -> None:
    value = getattr(made(**{key: written}), key)
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("key", "written", "says"),
    [
        ("app", "shop", 'must be module:callable like "app:application", not "shop"'),
        ("app", "a b:c", "must be module:callable"),
        ("app", "shop.py:app", 'names a module, so without .py: "shop:app"'),
        ("app", None, "has no value"),
        ("app", ["a:b"], "must be text"),
        ("workers", 0, 'must be at least 1 or "auto", not 0'),
        ("workers", "two", 'must be a whole number or "auto", not "two"'),
        ("workers", True, 'must be a whole number or "auto", not yes'),
        ("workers", 2.5, 'must be a whole number or "auto", not 2.5'),
        ("threads", 257, "must be at most 256, not 257"),
        ("timeout", -1, "must be at least 0 seconds, not -1"),
        ("timeout", "5 mins", 'must be a time like 30, "30s" or "5min", not "5 mins"'),
        ("timeout", float("nan"), "must be a time"),
        ("timeout", float("inf"), "must be a time"),
        ("timeout", "30d", "must be at most 7 days"),
        ("limit_request_body", "1X", 'must be a size like 65536, "64K" or "1G", not "1X"'),
        ("limit_request_line", 1, "must be at least 64 bytes, not 1"),
        ("enabled", "maybe", 'must be yes or no, not "maybe"'),
        ("log_level", "loud", "must be one of debug, info, warning, error"),
        ("access_log", True, "must be text"),
        ("socket_mode", "0999", 'must be an octal mode like "0660"'),
        ("bind", "example.org:80", "must be an address like"),
        ("bind", "127.0.0.1:70000", "must be an address like"),
        ("bind", ":8000", "must be an address like"),
        ("bind", "unix:run/x", "must be an address like"),
        ("bind", "/" + "x" * 108, "at most 107 bytes"),
        ("bind", ["8000", "127.0.0.1:8000"], "the same address twice"),
        ("worker_class", "gthread", 'not gthread; did you mean "threads"?'),
        ("worker_class", "fast", "must be one of auto, sync, threads, asgi or a path"),
        ("directory", "~/app", "without ~"),
        ("directory", "/srv/a\nb", "one line without control characters"),
        ("env", ["A=1"], "must be a mapping of names to text"),
        ("hooks", {"on_start": "a:b"}, 'is not a hook; did you mean "on_starting"?'),
        ("hooks", {"on_exit": "nothing"}, "must be module:function"),
        ("user", "a b", "must be a name like shop"),
        ("unit", {"Servce": {}}, "must be one of the sections Unit, Service, Socket, Install"),
        ("unit", {"Service": {"memoryMax": 1}}, "is not the name of a directive"),
        ("unit", {"Service": {"ExecStartPre": "a\nExecStart=b"}}, "must be one line"),
        ("unit", {"Service": {"Nice": "5\\"}}, "must not end with a backslash"),
        ("unit", {"Service": {"Nice": {"a": 1}}}, "must be text"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(
    key: str, written: object, says: str
) -> None:
    problems = refused({"app": "a:b", key: written})
    assert len(problems) == 1
    assert problems[0].startswith(f"{key}")
    assert says in problems[0]


def test_all_problems_are_told_at_once_by_line() -> None:
    values = {"threads": 0, "wrokers": 2, "unit": {"Service": {"x": 1, "Y": 2}, "Z": {}}}
    lines = {"threads": 1, "wrokers": 2, "unit": 3, "unit.Service": 4, "unit.Service.x": 5}
    assert refused(values, file="/etc/s.yaml", lines=lines) == [
        '/etc/s.yaml: app: is required, like "app: shop.wsgi:application"',
        "/etc/s.yaml:1: threads: must be at least 1, not 0",
        '/etc/s.yaml:2: unknown setting "wrokers"; did you mean "workers"?',
        "/etc/s.yaml:3: unit.Z: must be one of the sections Unit, Service, Socket, Install",
        "/etc/s.yaml:5: unit.Service.x: is not the name of a directive",
    ]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"group": "shop"}, "group"),
        ({"max_requests_jitter": 5}, "max_requests_jitter"),
        ({"refork_after": 5}, "refork_after"),
        ({"refork_after": 5, "preload_app": True, "threads": 2}, "refork_after"),
        ({"refork_after": 5, "preload_app": True, "max_requests": 5}, "refork_after"),
        ({"threads": 2, "worker_class": "sync"}, "threads"),
        ({"limit_request_head": 1024}, "limit_request_head"),
    ],
)
def test_settings_that_disagree(values: dict[str, object], key: str) -> None:
    (problem,) = refused({"app": "a:b", **values})
    assert problem.startswith(f"{key}: ")


def test_the_app_may_be_left_out_where_it_is_not_needed() -> None:
    assert build({}, need_app=False).app == ""


def test_a_secret_is_never_shown() -> None:
    cfg = made(env={"TOKEN": "hunter2"})
    assert "hunter2" not in repr(cfg)
    text = "\n".join(cfg.written())
    assert "TOKEN" in text
    assert "hunter2" not in text
    (problem,) = refused({"app": "a:b", "env": {"TOK EN": "hunter2"}})
    assert "hunter2" not in problem


def test_a_later_layer_wins() -> None:
    assert merge({"a": 1, "b": 1}, {"b": 2}, {"c": 3}) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(("workers", "surge"), [(1, 1), (4, 1), (5, 2), (100, 25)])
def test_surge_is_a_quarter_and_at_least_one(workers: int, surge: int) -> None:
    assert Config().surge_for(workers) == surge
    assert made(surge=3).surge_for(workers) == 3


def test_every_setting_is_declared_with_words() -> None:
    names = [each.name for each in describe()]
    assert names == [field.name for field in dataclasses.fields(Config)]
    for each in describe():
        assert each.help
        assert each.kind.read(each.default, each) == getattr(Config(), each.name)
    assert {"env", "unit", "socket_mode", "app"} <= AS_WRITTEN
    assert "workers" not in AS_WRITTEN


def test_the_schema_is_json_and_names_every_setting() -> None:
    text = json.dumps(schema())
    document: dict[str, Any] = json.loads(text)
    assert document["$schema"].endswith("2020-12/schema")
    assert document["required"] == ["app"]
    assert document["additionalProperties"] is False
    assert list(document["properties"]) == [each.name for each in describe()]
    assert document["properties"]["threads"]["maximum"] == 256
    for pattern in re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', text):
        re.compile(json.loads(pattern))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def lines_about(values: dict[str, object]) -> list[str]:
    try:
        build(values)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize("name", [*(each.name for each in describe()), "a\nb"])
@given(value=ANYTHING)
@settings(max_examples=30, deadline=None)
def test_nothing_but_a_config_or_a_config_error_comes_out(name: str, value: object) -> None:
    assert all("\n" not in line for line in lines_about({"app": "a:b", name: value}))


def test_names_in_problems_stay_on_their_line() -> None:
    (line,) = lines_about({"app": "a:b", "env": {"A\nB": "x"}})
    assert line.startswith("env.A?B: ")
