"""A gunicorn.conf.py as people have them: run, converted, and what is left is told."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from prefork_sd import gunicornrun
from prefork_sd.building import build
from prefork_sd.gunicornconf import Imported, convert, settings_of
from prefork_sd.gunicornrun import run
from prefork_sd.sources import read

HOOKS = {"post_fork": 2, "when_ready": 1, "post_request": 4, "helper": 7}


def done(functions: Mapping[str, int] | None = None, /, **settings: Any) -> Imported:
    file = "/srv/shop/gunicorn.conf.py"
    found = convert(settings, functions or {}, file=file, directory="/srv/shop")
    values = {name: choice.value for name, choice in found.chosen.items()}
    build(values, need_app=False)  # it has to be a configuration
    return found


def values(functions: Mapping[str, int] | None = None, /, **settings: Any) -> dict[str, object]:
    found = done(functions, **settings).chosen
    return {name: choice.value for name, choice in found.items() if name != "directory"}


def remarks(**settings: Any) -> dict[str, str]:
    return {remark.name: remark.text for remark in done(**settings).remarks}


@pytest.mark.parametrize(
    ("settings", "ours"),
    [
        ({"wsgi_app": "shop.wsgi"}, {"app": "shop.wsgi:application"}),
        ({"wsgi_app": "shop:create_app()"}, {"app": "shop:create_app()"}),
        ({"workers": 4, "timeout": 60, "backlog": 64},
         {"workers": 4, "timeout": 60, "backlog": 64}),
        ({"bind": "unix:/run/x.sock,localhost:80"}, {"bind": ["unix:/run/x.sock", "127.0.0.1:80"]}),
        ({"bind": [":9000", "[::1]:9"]}, {"bind": ["0.0.0.0:9000", "[::1]:9"]}),
        ({"bind": "unix:x.sock"}, {"bind": "unix:/srv/shop/x.sock"}),
        ({"bind": "0.0.0.0:443", "certfile": "c.pem", "keyfile": "/k.pem"},
         {"tls_bind": ["0.0.0.0:443"], "tls_certificate": "/srv/shop/c.pem", "tls_key": "/k.pem"}),
        ({"bind": "0.0.0.0:443", "certfile": "/c.pem", "cert_reqs": 1}, {"bind": "0.0.0.0:443"}),
        ({"bind": "0.0.0.0:1", "certfile": "/c", "keyfile": "/k", "ca_certs": "/a", "cert_reqs": 1},
         {"tls_bind": ["0.0.0.0:1"], "tls_certificate": "/c", "tls_key": "/k",
          "tls_client_ca": "/a", "tls_client_auth": "optional"}),
        ({"worker_class": "gthread", "threads": 8}, {"worker_class": "threads", "threads": 8}),
        ({"worker_class": "sync", "threads": 2}, {"threads": 2}),
        ({"worker_class": "uvicorn.workers.UvicornWorker", "threads": 4},
         {"worker_class": "asgi"}),
        ({"max_requests": 0, "max_requests_jitter": 5}, {"max_requests": 0}),
        ({"user": "shop", "group": 33, "umask": 0o007},
         {"user": "shop", "group": "33", "unit": {"Service": {"UMask": "0007"}}}),
        ({"user": "root"}, {}),
        ({"pythonpath": "a, /b"}, {"pythonpath": ["a", "/b"]}),
        ({"raw_env": ["A=1=2", "B="]}, {"env": {"A": "1=2", "B": ""}}),
        ({"accesslog": "-", "loglevel": "debug"}, {"access_log": "all", "log_level": "debug"}),
        ({"accesslog": "-", "loglevel": "CRITICAL"}, {"access_log": "all"}),
        ({"loglevel": "CRITICAL"}, {"log_level": "error"}),
        ({"accesslog": None}, {}),
        ({"forwarded_allow_ips": "10.0.0.1,::1"},
         {"forwarded_allow_ips": ["10.0.0.1", "::1", "unix"]}),
        ({"forwarded_allow_ips": "*"}, {"forwarded_allow_ips": ["*"]}),
        ({"proxy_protocol": "v2"}, {"proxy_protocol": True}),
        ({"proxy_protocol": "off", "daemon": False, "sendfile": True}, {}),
    ],
)  # fmt: skip
def test_a_counterpart(settings: dict[str, Any], ours: dict[str, object]) -> None:
    assert values(**settings) == ours


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"bind": "example.org:80"}, "address in place of the name"),
        ({"bind": "fd://3"}, "systemd opens"),
        ({"bind": "unix:@x"}, "abstract"),
        ({"bind": "1.2.3.4:99999"}, "must be an address"),
        ({"worker_class": "gevent"}, "threads"),
        ({"worker_class": "shop.workers.Own"}, "gunicorn's own kind"),
        ({"keepalive": 2}, "sync"),
        ({"worker_class": "gthread"}, "heartbeat"),
        ({"limit_request_line": 0}, "at least 64"),
        ({"group": "www-data"}, "`user`"),
        ({"certfile": "/c.pem"}, "it needs a keyfile"),
        ({"user": "root"}, "root is left out"),
        ({"raw_env": ["SECRET_KEY=x"]}, "SECRET_KEY may be a secret"),
        ({"errorlog": "/var/log/x"}, "journalctl"),
        ({"statsd_host": "localhost:8125"}, "status_bind"),
        ({"pidfile": "/run/x.pid"}, "MainPID"),
        ({"logger_class": "shop.Logger"}, "journal"),
        ({"secure_scheme_headers": {"X-SCHEME": "https"}}, "X-SCHEME"),
        ({"dirty_workers": 2}, "no counterpart"),
    ],
)
def test_what_has_none_is_told(settings: dict[str, Any], word: str) -> None:
    texts = remarks(**settings).values()
    assert any(word in text for text in texts), texts


def test_a_secret_s_value_is_in_no_remark() -> None:
    assert "x7" not in str(remarks(raw_env=["API_TOKEN=x7"]))


def test_the_guide_s_example_becomes_what_it_says(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "from-gunicorn.md").read_text(encoding="utf-8")
    source, yaml = (
        guide.split(f"```{language}\n")[1].split("```")[0] for language in ("python", "yaml")
    )
    for name, text in (("gunicorn.conf.py", source), ("shop.yaml", yaml)):
        (tmp_path / name).write_text(text)
    found, _, failure = run(tmp_path / "gunicorn.conf.py", sys.executable, tmp_path)
    assert failure == ""
    ours = values(**dict(settings_of(found)))
    wanted, _ = read(tmp_path / "shop.yaml")
    told = {"app", "directory", "venv"}  # by the command line and the folder
    assert set(wanted) - set(ours) == told
    assert {name: wanted[name] for name in ours} == ours


def test_chdir_is_the_directory() -> None:
    assert done().chosen["directory"].value == "/srv/shop"
    assert done(chdir="sub").chosen["directory"].value == "/srv/shop/sub"
    assert done(chdir="/srv/other").chosen["directory"].value == "/srv/other"


def test_hooks_are_those_of_the_file() -> None:
    assert values(HOOKS) == {"hooks": "/srv/shop/gunicorn.conf.py"}
    assert values({"helper": 7}) == {}
    assert values({"post_fork": -1}) == {"hooks": "/srv/shop/gunicorn.conf.py"}


def test_a_hook_with_other_arguments_keeps_them_all_off() -> None:
    found = done(HOOKS | {"post_request": 2})
    assert "hooks" not in found.chosen
    texts = {remark.name: remark.text for remark in found.remarks}
    assert "(worker, req, environ, resp)" in texts["post_request"]


CONFIG = """
import multiprocessing, os, pathlib, helper
print("noise")
workers = multiprocessing.cpu_count()
BIND = ["127.0.0.1:8000"]
chdir = pathlib.Path("/srv")
loglevel = os.environ.get("NOTHING", "debug")
_private = 1
class logger_class: pass
def post_fork(server, worker): pass
def on_exit(*_): pass
"""


def test_a_file_is_run_as_gunicorn_runs_it(tmp_path: Path) -> None:
    file = tmp_path / "gunicorn.conf.py"
    file.write_text(CONFIG)
    (tmp_path / "helper.py").touch()
    found, functions, failure = run(file, sys.executable, tmp_path)
    assert failure == ""
    assert functions == {"post_fork": 2, "on_exit": -1}
    settings = dict(settings_of(found))
    assert settings.pop("workers") >= 1
    assert settings == {
        "bind": ["127.0.0.1:8000"],
        "chdir": "/srv",
        "loglevel": "debug",
        "logger_class": "__config__.logger_class",
    }


@pytest.mark.parametrize("code", ["1/0", "import nothing_of_this_name", "raise SystemExit(3)"])
def test_a_file_that_fails_says_why(tmp_path: Path, code: str) -> None:
    file = tmp_path / "gunicorn.conf.py"
    file.write_text(code)
    assert run(file, sys.executable, tmp_path)[2]


@pytest.mark.parametrize("code", ["1/0", "def f(:", "import nothing_of_this_name"])
def test_a_file_that_fails_shows_its_own_frames_alone(tmp_path: Path, code: str) -> None:
    file = tmp_path / "gunicorn.conf.py"
    file.write_text(code)
    text = run(file, sys.executable, tmp_path)[2]
    assert "gunicornrun" not in text
    assert f'"{file}", line 1' in text or "nothing_of_this_name" in text


def test_a_file_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gunicorn.conf.py"
    file.write_text("import select\nselect.select([], [], [])\n")
    monkeypatch.setattr(gunicornrun, "TIMEOUT", 0.5)
    with pytest.raises(TimeoutError, match="has not ended"):
        run(file, sys.executable, tmp_path)
