"""Finding and reading YAML files and environment files: the grammar, the lines, the masks."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_sd import envfile
from prefork_sd.errors import ConfigError
from prefork_sd.settings import BadValueError
from prefork_sd.sources import find, folders, masked, misnamed, read, services, templates


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    etc.mkdir()
    usr.mkdir()
    monkeypatch.setenv("PREFORK_SD_CONFIG_PATH", f"{etc}:{tmp_path / 'none'}:{usr}")
    return etc, usr


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(path)
    return [str(problem).removeprefix(str(path)) for problem in caught.value.problems]


def test_the_first_folder_wins(places: tuple[Path, Path]) -> None:
    etc, usr = places
    for folder, name in ((etc, "a"), (usr, "a"), (usr, "b")):
        (folder / f"{name}.yaml").write_text("app: x:y\n")
    (etc / "notes.txt").write_text("")
    (etc / ".hidden.yaml").write_text("")
    assert services() == {"a": etc / "a.yaml", "b": usr / "b.yaml"}
    assert find("a") == ("a", etc / "a.yaml")
    assert find("b") == ("b", usr / "b.yaml")


def test_the_usual_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFORK_SD_CONFIG_PATH", raising=False)
    usual = ("/etc/prefork-sd", "/run/prefork-sd", "/usr/lib/prefork-sd/services")
    assert tuple(map(str, folders())) == usual


def test_an_empty_file_or_a_link_to_null_masks(places: tuple[Path, Path]) -> None:
    etc, usr = places
    for name in ("empty", "null"):
        (usr / f"{name}.yaml").write_text("app: x:y\n")
    (etc / "empty.yaml").touch()
    (etc / "null.yaml").symlink_to(os.devnull)
    for name in ("empty", "null"):
        assert masked(services()[name])
        with pytest.raises(ConfigError, match="masks this service"):
            find(name)
    assert not masked(usr / "empty.yaml")
    assert not masked(usr / "absent.yaml")


@pytest.mark.parametrize("given", ["./x.yaml", "x.yaml", "x.yml"])
def test_a_path_is_taken_as_one(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(given) == ("x", tmp_path / given)


@pytest.mark.parametrize("given", ["", "a b", "../..", "/etc/a b.yaml", "-x", "a/b\n.yaml", "a%"])
def test_names_that_cannot_be(given: str) -> None:
    with pytest.raises(ConfigError):
        find(given)


def test_a_name_that_is_not_there_names_the_folders(places: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=rf"there is no x\.yaml in {places[0]}, .*{places[1]}"):
        find("x")


def test_values_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "\ufeff# shop\napp: x:y\nworkers: 4\nenv:\n  ON: 1.10\n  RELEASE: 2024-01-02\n"
        "unit:\n  Service:\n    UMask: 0027\n    Nice: [1, 2]\nsocket_mode: 0660\n"
        "enabled: no\ntimeout: 5.5\n"
    )
    values, lines = read(path)
    assert values == {
        "app": "x:y",
        "workers": 4,
        "env": {"ON": "1.10", "RELEASE": "2024-01-02"},
        "unit": {"Service": {"UMask": "0027", "Nice": ["1", "2"]}},
        "socket_mode": "0660",
        "enabled": False,
        "timeout": 5.5,
    }
    assert lines["app"] == 2
    assert lines["env.RELEASE"] == 6
    assert lines["unit.Service.Nice"] == 10


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("unit:\n  Service: &a {A: 1}\n  Socket: {<<: *a, B: x}\n")
    assert read(path)[0] == {"unit": {"Service": {"A": "1"}, "Socket": {"A": "1", "B": "x"}}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"app: [x\nworkers: 2\n", ":2: not valid YAML: "),
        (b"a: 1\n\tb: 2\n", ":2: not valid YAML: "),
        (b"app: x\nworkers:2\nthreads: 2\n", ':2: "workers:2" needs a space after the colon'),
        (b"app: x\nworkers:2\n", ':2: "workers:2" needs a space after the colon'),
        (b"a: b\nenv:\n  KEY:secret\n  B: 2\n", ':3: "KEY:" needs a space after the colon'),
        (b"app: x\nworkers 2\n", ':2: not valid YAML: here belongs "name: value"'),
        (b"app: 'x\na: 1\nb: 2\n", ":1: not valid YAML: the quote that opens here is not closed"),
        (b'a: 1\napp: "x\nb: 2\n', ":2: not valid YAML: the quote that opens here is not closed"),
        (b"- app\n", ":1: must be a mapping of settings"),
        (b"text\n", ":1: must be a mapping of settings"),
        (b"app: a\nworkers: 1\napp: b\n", ":3: app: is here twice; first in line 1"),
        (b"env:\n  A: 1\n  A: 2\n", ":3: env.A: is here twice; first in line 2"),
        (b"? [a]\n: 1\n", ":1: has a key that is not text"),
        (b"app: a\n---\napp: b\n", ":2: not valid YAML: "),
        (b"app: !!python/object:os.system x\n", ":1: not valid YAML: "),
        (b"app: x\nenv: {A: \xff}\n", ":2: is not UTF-8"),
        (b"a: 1\nb: \x01\n", ":2: not valid YAML: has a character that YAML does not allow"),
        (b"a: " + b"[" * 100000 + b"]" * 100000, ": has more than 20 levels"),
        (b"#" * (1 << 20) + b"\n", ": is larger than 1 MiB"),
    ],
)
def test_what_is_not_taken(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    (problem,) = problems(path)
    assert problem.startswith(says)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    assert problems(tmp_path / "fifo.yaml") == [": is not a regular file"]
    assert problems(Path("/dev/zero")) == [": is not a regular file"]
    assert problems(tmp_path) == [": cannot be read: Is a directory"]
    assert problems(tmp_path / "absent.yaml") == [": cannot be read: No such file or directory"]


def test_an_empty_file_has_no_values(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("# nothing\n")
    assert read(tmp_path / "s.yaml") == ({}, {})


def test_the_templates_are_found() -> None:
    texts = templates()
    assert "[Service]" in texts["service"]
    assert "[Socket]" in texts["socket"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=1\n# c\n;d\n\n B = 2", {"A": "1", "B": "2"}),
        ('A="x y"\nB=foo bar  \n', {"A": "x y", "B": "foo bar"}),
        ("A='q\"\nz'\nB=\n", {"A": 'q"\nz', "B": ""}),
        ("A=a\\\nb\nB=it\\'s\n", {"A": "ab", "B": "it's"}),
        ('A="a\\"b\\$c\\n"\n', {"A": 'a"b$c\\n'}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=x#y=z\n", {"A": "x#y=z"}),
    ],
)
def test_environment_files(text: str, values: dict[str, str]) -> None:
    assert envfile.parse(text) == values


def test_every_wrong_line_of_an_environment_file_is_told() -> None:
    with pytest.raises(BadValueError) as caught:
        envfile.parse('A=1\nexport B=2\nfoo\n1C=3\nD="x\n')
    assert [place for place, _ in caught.value.found] == ["line 2", "line 3", "line 4", "line 5"]


def test_an_export_is_to_be_left_out() -> None:
    with pytest.raises(BadValueError, match='leave out "export"'):
        envfile.parse("export B=2\n")


@given(st.text(alphabet="A=#;'\"\\ \n\0b", max_size=40))
def test_parsing_an_environment_file_ends(text: str) -> None:
    try:
        values = envfile.parse(text)
    except BadValueError:
        return
    assert all("\0" not in value for value in values.values())


def test_a_file_that_ends_in_yml_is_pointed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFORK_SD_CONFIG_PATH", str(tmp_path))
    (tmp_path / "shop.yml").write_text("app: a:b\n")
    (tmp_path / "blog.yaml").write_text("app: a:b\n")
    assert list(misnamed()) == [tmp_path / "shop.yml"]
    with pytest.raises(ConfigError, match=r"there is .*/shop\.yml, which has to end in \.yaml"):
        find("shop")
    with pytest.raises(ConfigError, match='did you mean "blog"'):
        find("blogg")
