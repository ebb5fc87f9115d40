"""The loader: what a process becomes when it is prepared, and what importing an app can say.

What changes the interpreter (import path, environment, directory) runs in one of its own.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefork_sd.config import Config
from prefork_sd.errors import ConfigError
from prefork_sd.loader import Application, auto_workers, load_hooks

HOUSE = Path(__file__).parents[2]
APP = "def application(environ, start_response): return [b'one']\n"

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run code in a fresh interpreter that starts in `tmp_path`; give back what it `tell`s."""
    head = f"""
        import json, sys
        sys.path.insert(0, {str(HOUSE)!r})
        from pathlib import Path
        from prefork_sd.errors import AppImportError, ConfigError
        from prefork_sd.loader import Application, load_hooks
        from prefork_sd.sources import find
        def tell(value): print(json.dumps(value, default=str))
        def failure(app):
            try:
                app.wsgi()
            except AppImportError as error:
                return [str(error), error.details]
    """

    def run(code: str, **environ: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
            cwd=tmp_path,
            env={**os.environ, "PWD": str(tmp_path), **environ},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def test_an_app_beside_its_yaml_is_imported(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "srv/shop.py", APP)
    write(tmp_path / "srv/shop.yaml", "app: shop:application\n")
    told = run("""
        app = Application(*find("srv/shop.yaml"))
        before = list(sys.path)
        app.prepare()
        tell([app.name, app.wsgi()(None, None)[0].decode(), str(Path.cwd()), sys.path[0]])
    """)
    assert told == ["shop", "one", str(tmp_path / "srv"), str(tmp_path / "srv")]


def test_a_file_of_the_system_holds_no_code_beside_it(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "etc/shop.yaml", "app: shop:application\n")
    told = run(
        """
        app = Application(*find("shop"))
        app.prepare()
        tell([app.cfg.directory, str(Path.cwd())])
        """,
        PREFORK_SD_CONFIG_PATH=str(tmp_path / "etc"),
    )
    assert told == ["", str(tmp_path)]


def test_without_a_file_it_is_the_directory_of_the_start(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "shop.py", APP)
    told = run("""
        app = Application("shop", None, {"app": "shop:application", "threads": "4"})
        app.prepare()
        tell([app.cfg.threads, app.wsgi()(None, None)[0].decode()])
    """)
    assert told == [4, "one"]


def test_overrides_win_and_their_paths_start_here(tmp_path: Path) -> None:
    source = write(tmp_path / "a/s.yaml", "app: x:y\npidfile: p\nenv_file: e\nworkers: 2\n")
    app = Application("s", source, {"pidfile": "q", "workers": 5}, started_in=Path("/run/me"))
    assert app.cfg.workers == 5
    assert app.cfg.pidfile == "/run/me/q"
    assert app.cfg.env_file == str(tmp_path / "a/e")
    assert app.cfg.directory == str(tmp_path / "a")


def test_a_wrong_override_does_not_blame_the_file(tmp_path: Path) -> None:
    source = write(tmp_path / "s.yaml", "app: x:y\nworkers: 2\n")
    with pytest.raises(ConfigError, match="workers") as caught:
        Application("s", source, {"workers": -1})
    (problem,) = caught.value.problems
    assert problem.line == 0
    assert problem.file == ""


def test_fresh_reads_everything_anew(tmp_path: Path) -> None:
    source = write(tmp_path / "s.yaml", "app: x:y\n")
    app = Application("s", source, {"threads": 3})
    write(source, "app: x:z\n")
    again = app.fresh()
    assert (app.cfg.app, again.cfg.app, again.cfg.threads) == ("x:y", "x:z", 3)
    write(source, "app: 'x'\n")
    with pytest.raises(ConfigError, match=r"s\.yaml:1: app: must be module:callable"):
        app.fresh()


def test_symlinks_are_resolved_at_each_prepare(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "releases/1/shop.py", APP)
    write(tmp_path / "releases/2/shop.py", APP.replace("one", "two"))
    (tmp_path / "current").symlink_to("releases/1")
    write(tmp_path / "s.yaml", "app: shop:application\ndirectory: current\n")
    told = run("""
        import os
        app = Application(*find("./s.yaml"))
        seen = []
        for release in ("1", "2"):
            os.unlink("current"); os.symlink(f"releases/{release}", "current")
            reader, writer = os.pipe()
            if os.fork() == 0:
                app.fresh().prepare()
                os.write(writer, app.wsgi()(None, None)[0] + b" " + os.fsencode(os.getcwd()))
                os._exit(0)
            os.wait()
            seen.append(os.read(reader, 1000).decode())
        tell([seen, app.cfg.directory])
    """)
    assert told == [
        [f"one {tmp_path}/releases/1", f"two {tmp_path}/releases/2"],
        str(tmp_path / "current"),
    ]


def test_the_environment_file_and_env(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "env", 'A="from file"\nB=2\nTZ=Asia/Tokyo\n')
    write(tmp_path / "s.yaml", "app: x:y\nenv_file: env\nenv: {A: 0660, ON: 'yes'}\n")
    told = run("""
        import os, time
        Application(*find("./s.yaml")).prepare()
        tell([os.environ[key] for key in ("A", "B", "ON")] + [time.timezone])
    """)
    assert told == ["0660", "2", "yes", -9 * 3600]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"directory": "/nowhere"}, "directory: cannot work in /nowhere: No such file"),
        ({"env_file": "/nowhere"}, "env_file: cannot read /nowhere: No such file"),
    ],
)
def test_what_prepare_cannot_have(settings: dict[str, object], says: str) -> None:
    app = Application("s", None, {"app": "x:y", **settings})
    with pytest.raises(ConfigError) as caught:
        app.prepare()
    assert str(caught.value).startswith(says)


def test_a_bad_environment_file_is_told_by_line_without_its_values(tmp_path: Path) -> None:
    file = write(tmp_path / "env", "A=1\nhunter2\nexport B=hunter2\n")
    app = Application("s", None, {"app": "x:y", "env_file": str(file)})
    with pytest.raises(ConfigError) as caught:
        app.prepare()
    assert [problem.line for problem in caught.value.problems] == [2, 3]
    assert "hunter2" not in str(caught.value)


def test_hooks_may_import_from_a_venv_of_any_version(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "venv/lib/python3.99/site-packages/extra.py", "def ready(server): pass\n")
    settings = {"app": "x:y", "venv": "venv", "hooks": {"when_ready": "extra:ready"}}
    told = run(f"""
        hooks = load_hooks(Application("s", None, {settings}).cfg)
        tell([hooks.when_ready.__module__, [path for path in sys.path if "3.99" in path]])
    """)
    assert told == ["extra", []]


@pytest.mark.parametrize(
    ("app", "text", "details"),
    [
        (
            "gone:app",
            "cannot import \"gone:app\": ModuleNotFoundError: No module named 'gone' (looked in",
            "",
        ),
        (
            "needs:app",
            "cannot import \"needs:app\": ModuleNotFoundError: No module named 'absent_thing'",
            "needs.py",
        ),
        ("breaks:app", 'cannot import "breaks:app": ZeroDivisionError: division', "1 / 0"),
        ("syntax:app", 'cannot import "syntax:app": SyntaxError: ', "syntax.py"),
        ("exits:app", 'cannot import "exits:app": SystemExit: 3', "exits.py"),
        (
            "shop:aplication",
            'cannot import "shop:aplication": "shop" has no "aplication"; it has "application", '
            '"create_app()"',
            "",
        ),
        ("shop:number", '"shop:number" is an int, not a callable', ""),
        ("shop:create_app", '"shop:create_app" takes no arguments: if it makes the app, write', ""),
        ("shop:broken()", '"shop:broken()" failed: ValueError: two lines', "raise ValueError"),
        ("shop:number()", 'cannot import "shop:number()": it is an int and cannot be called', ""),
    ],
)
def test_what_importing_an_app_can_say(
    run: Run, tmp_path: Path, app: str, text: str, details: str
) -> None:
    write(tmp_path / "needs.py", "import absent_thing\n")
    write(tmp_path / "breaks.py", "x = 1 / 0\n")
    write(tmp_path / "syntax.py", "def f(:\n")
    write(tmp_path / "exits.py", "raise SystemExit(3)\n")
    shop = """
        number = 3
        def create_app(): return application
        def broken(): raise ValueError('two\\nlines')
    """
    write(tmp_path / "shop.py", APP + textwrap.dedent(shop))
    told = run(f"""
        app = Application("s", None, {{"app": {app!r}}})
        app.prepare()
        tell(failure(app))
    """)
    assert told[0].startswith(text)
    assert "\n" not in told[0]
    assert len(told[0]) <= 300
    assert details in told[1]
    for ours in ("importlib", "prefork_sd"):
        assert ours not in told[1]


def test_a_factory_is_called(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "shop.py", APP + "def make_app(): return application\n")
    told = run("""
        app = Application("s", None, {"app": "shop:make_app()"})
        app.prepare()
        tell(app.wsgi()(None, None)[0].decode())
    """)
    assert told == "one"


def test_hooks_of_dotted_paths_leave_no_trace(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "pkg/__init__.py", "")
    write(
        tmp_path / "pkg/mine.py", "from pkg import other\ndef ready(server): return other.value\n"
    )
    write(tmp_path / "pkg/other.py", "value = 1\n")
    told = run("""
        app = Application("s", None, {"app": "x:y", "hooks": {"when_ready": "pkg.mine:ready"}})
        path, modules = list(sys.path), set(sys.modules)
        first = load_hooks(app.cfg)
        Path("pkg/other.py").write_text("value = 'changed'\\n")
        second = load_hooks(app.cfg)
        left = [name for name in sys.modules if name.startswith("pkg")]
        tell([first.when_ready(0), second.when_ready(0), left, path == sys.path])
    """)
    assert told == [1, "changed", [], True]


def test_hooks_of_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "hooks.py", "seen = []\ndef on_exit(server): seen.append(server)\n")
    hooks = load_hooks(Config(app="x:y", hooks=str(file)))
    hooks.on_exit("arbiter")
    assert hooks.on_exit.__globals__["seen"] == ["arbiter"]
    hooks.on_starting("arbiter")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def on_exit(): pass\n", "hooks.on_exit: must take on_exit(server), but takes ()"),
        ("on_exit = 3\n", "hooks.on_exit: must be a function on_exit(server), not int"),
        ("1 / 0\n", "failed: ZeroDivisionError: division by zero"),
        ("def f(:\n", "failed: SyntaxError"),
    ],
)
def test_hooks_that_cannot_be(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path / "hooks.py", text)
    with pytest.raises(ConfigError) as caught:
        load_hooks(Config(app="x:y", hooks=str(file)))
    assert says in str(caught.value)


def test_every_missing_hook_is_named() -> None:
    hooks = {"on_exit": "prefork_sd.nowhere:f", "on_reload": "prefork_sd.errors:absent"}
    with pytest.raises(ConfigError) as caught:
        load_hooks(Config(app="x:y", hooks=hooks))
    assert [problem.key for problem in caught.value.problems] == [
        "hooks.on_exit",
        "hooks.on_reload",
    ]


def test_auto_workers_counts_the_cpus_we_may_use() -> None:
    assert auto_workers() == 2 * len(os.sched_getaffinity(0)) + 1
