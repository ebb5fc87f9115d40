"""Who is measured: how each server is started, with the settings that suit it best."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmark.scenarios import Scenario

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
APPS = HERE / "apps"
PYTHON = (sys.executable, "-P")
BINARIES = Path(sys.executable).parent
OPEN = 4096  # connections that a server has to allow at once


@dataclass(frozen=True, slots=True)
class Job:
    """What a server is started for: app (`module:name`), port, number of workers and threads."""

    app: str
    port: int
    workers: int
    threads: int
    preload: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """One way to serve. `threads`: how many it usually has; 0 if it cannot have any."""

    name: str
    distribution: str  # "" is this checkout
    command: Callable[[Job], Sequence[str]]
    threads: int = 0
    forks: bool = True
    preloads: bool = False

    def version(self) -> str:
        """What is installed; "" if it is not."""
        if not self.distribution:
            return "this checkout"
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return ""

    def missing(self, scenario: Scenario) -> str:
        """Why it cannot take part; "" if it can."""
        if not self.version():
            return "not installed"
        if scenario.threads and not self.threads:
            return "has no threads"
        if scenario.preload and not self.preloads:
            return "does not preload"
        return ""

    def job(self, scenario: Scenario, port: int) -> Job:
        return Job(
            scenario.app,
            port,
            scenario.workers if self.forks else 1,
            scenario.threads or self.threads or 1,
            scenario.preload,
        )


def prefork_sd(job: Job) -> Sequence[str]:
    options = f"--bind 127.0.0.1:{job.port} --workers {job.workers} --threads {job.threads}"
    options += " --access-log off" + " --preload-app yes" * job.preload
    options += " --refork-after 100" * (job.preload and job.threads == 1)
    return [*PYTHON, "-m", "prefork_sd", "serve", job.app, *options.split()]


def gunicorn(job: Job, worker: str) -> Sequence[str]:
    options = f"-b 127.0.0.1:{job.port} -w {job.workers} -k {worker} --threads {job.threads}"
    limits = f"--keep-alive 75 --worker-connections {OPEN} --http-parser fast --no-control-socket"
    limits += " --preload" * job.preload
    return [*PYTHON, "-m", "gunicorn", *options.split(), *limits.split(), job.app]


def gunicorn_sync(job: Job) -> Sequence[str]:
    return gunicorn(job, "sync")


def gunicorn_gthread(job: Job) -> Sequence[str]:
    return gunicorn(job, "gthread")


def uwsgi(job: Job) -> Sequence[str]:
    options = f"--http 127.0.0.1:{job.port} --http-keepalive=75 --processes {job.workers}"
    more = f"--threads {job.threads} --master --need-app --die-on-term --disable-logging"
    paths = ["-H", sys.prefix, "--pythonpath", str(APPS), "--module", job.app]
    return [str(BINARIES / "uwsgi"), *options.split(), *more.split(), "--listen", "1024", *paths]


def waitress(job: Job) -> Sequence[str]:
    options = f"--listen=127.0.0.1:{job.port} --threads={job.threads} --asyncore-use-poll"
    return [*PYTHON, "-m", "waitress", *options.split(), f"--connection-limit={OPEN}", job.app]


def granian(job: Job) -> Sequence[str]:
    options = f"--interface wsgi --host 127.0.0.1 --port {job.port} --workers {job.workers}"
    more = ["--blocking-threads", str(job.threads), "--backlog", str(OPEN)]
    return [*PYTHON, "-m", "granian", *options.split(), *more, job.app]


def launched(name: str) -> Callable[[Job], Sequence[str]]:
    """A server that has no command line."""

    def command(job: Job) -> Sequence[str]:
        numbers = map(str, (job.port, job.workers, job.threads))
        return [*PYTHON, str(APPS / "launch.py"), name, job.app, *numbers]

    return command


BASE = "gunicorn-gthread"  # what the first ratio is taken to
SERVERS = (
    Server("prefork-sd", "", prefork_sd, preloads=True),
    Server("prefork-sd-threads", "", prefork_sd, threads=4, preloads=True),
    Server("gunicorn-sync", "gunicorn", gunicorn_sync, preloads=True),
    Server(BASE, "gunicorn", gunicorn_gthread, threads=4, preloads=True),
    Server("uwsgi", "uWSGI", uwsgi, threads=1),
    Server("waitress", "waitress", waitress, threads=4, forks=False),
    Server("granian", "granian", granian, threads=1),
    Server("bjoern", "bjoern", launched("bjoern")),
    Server("fastwsgi", "fastwsgi", launched("fastwsgi")),
    Server("cheroot", "cheroot", launched("cheroot"), threads=10, forks=False),
)
BY_NAME = {one.name: one for one in SERVERS}
OURS = frozenset(one.name for one in SERVERS if not one.distribution)


def pick(names: Sequence[str]) -> list[Server]:
    """Those named, in their usual order; all if none is."""
    return [one for one in SERVERS if not names or one.name in names]
