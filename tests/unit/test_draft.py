"""The YAML that is written for people: it reads back as it was meant, comments and all."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_sd.building import build
from prefork_sd.config import SETTINGS
from prefork_sd.draft import USUAL, WIDTH, Choice, draft, entry, written
from prefork_sd.sources import read


def reread(folder: Path, text: str) -> dict[str, object]:
    path = folder / "shop.yaml"
    path.write_text(text, encoding="utf-8")
    return read(path)[0]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yaml")


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), TEXTS, min_size=1))
def test_every_text_reads_back(folder: Path, values: dict[str, str]) -> None:
    text = "\n".join(entry("env", values)) + "\n"
    assert reread(folder, text) == {"env": values}


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("app", "shop.wsgi:create_app()", "app: shop.wsgi:create_app()"),
        ("bind", ["127.0.0.1:8000", "/run/x.sock"], "bind: [127.0.0.1:8000, /run/x.sock]"),
        ("venv", ".venv", "venv: .venv"),
        ("preload_app", True, "preload_app: yes"),
        ("user", "no", 'user: "no"'),
        ("timeout", 2.5, "timeout: 2.5"),
        ("hooks", {}, "hooks: {}"),
        ("socket_group", "", 'socket_group: ""'),
    ],
)
def test_what_needs_no_quotes_has_none(folder: Path, key: str, value: object, line: str) -> None:
    assert list(entry(key, value)) == [line]
    assert reread(folder, f"{line}\n") == {key: value}


def test_a_mapping_on_one_line(folder: Path) -> None:
    unit = {"Service": {"UMask": "0007", "IPAddressAllow": ["::1", "127.0.0.1"]}}
    assert reread(folder, f"unit: {written(unit)}\n") == {"unit": unit}


def test_reasons_help_and_remarks_are_comments(folder: Path) -> None:
    chosen = {
        "app": Choice("a:b", "found\nin app.py"),
        "unit": Choice({"Service": {"UMask": "0007"}}),
    }
    remarks = ["a remark " * 30]
    text = draft("shop", chosen, by="prefork-sd init", remarks=remarks)
    assert f"# {SETTINGS['app'].help}\n# here: found in app.py\napp: a:b\n" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert reread(folder, text) == {"app": "a:b", "unit": {"Service": {"UMask": "0007"}}}


def test_the_usual_rest_can_be_uncommented_line_by_line(folder: Path) -> None:
    text = draft("shop", {"app": Choice("a:b")}, by="me")
    assert set(re.findall(r"^#(\w+):", text, re.MULTILINE)) == set(USUAL)
    values = reread(folder, re.sub(r"^#(\w+):", r"\1:", text, flags=re.MULTILINE))
    assert set(values) == {"app", *USUAL}
    assert build(values).app == "a:b"
