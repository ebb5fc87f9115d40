"""The command line: what can be said on it. What is then done is in `commands` and `remote`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from prefork_sd import __version__, commands, remote
from prefork_sd.config import MOST_WORKERS, SETTINGS
from prefork_sd.errors import ExitCode, PreforkError

Parser = argparse.ArgumentParser

NOT_FOR_SERVE = {"app", "unit", "enabled", "hooks", "socket_user", "socket_group"}
OTHERS = {  # what systemd's own tools do
    **{verb: f"systemctl {verb}" for verb in ("start", "stop", "restart")},
    **dict.fromkeys(("log", "logs"), "journalctl -u"),
}
CHECKED = (
    "Check a service's configuration and import its app. Exits with 0 where there is nothing worse "
    "than warnings, 1 where an error is certain to keep the service from running, 4 where the app "
    "cannot be imported, and 78 where the configuration is wrong."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and (tool := OTHERS.get(words[0])):
        print(f"prefork-sd: say: {' '.join([tool, *words[1:]])}", file=sys.stderr)
        return ExitCode.USAGE
    arguments = parser().parse_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        status = command(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # at the exit nobody could catch what it raises
        return status
    except PreforkError as error:
        print(f"prefork-sd: {error}".replace("\n", "\nprefork-sd: "), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.CLEAN


def parser() -> argparse.ArgumentParser:
    """Everything that can be said on the command line."""
    top = argparse.ArgumentParser(
        prog="prefork-sd",
        description="A pre-fork application server that is a native citizen of systemd.",
        epilog="See prefork-sd(8), and prefork-sd.yaml(5) for the settings.",
    )
    top.add_argument("--version", action="version", version=f"prefork-sd {__version__}")
    known = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Parser:
        one = known.add_parser(name, help=text, description=text)
        one.set_defaults(command=run)
        return one

    def about(one: Parser, *, optional: bool = False) -> None:
        text = "a service's name, or the path of its YAML file"
        nargs = "?" if optional else None
        one.add_argument("service", nargs=nargs, default="", metavar="SERVICE", help=text)

    def drafting(one: Parser) -> None:
        one.add_argument("--name", default="", help="the service's name; else the folder's")
        one.add_argument("--stdout", action="store_true", help="print the file, write nothing")
        one.add_argument("--force", action="store_true", help="write over a file that exists")

    one = add("init", commands.init, "Write the YAML file of a service for a project's folder.")
    one.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="where the app is")
    drafting(one)
    one = add(
        "import", commands.import_, "Write the YAML file of a service from a gunicorn.conf.py."
    )
    one.add_argument("file", metavar="FILE", help="gunicorn's configuration; it is run")
    one.add_argument("--app", default="", metavar="MODULE:CALLABLE", help=SETTINGS["app"].help)
    text = "where gunicorn is started; else the file's folder"
    one.add_argument("--directory", default="", metavar="FOLDER", help=text)
    drafting(one)
    one = add("run", commands.run, "Run a service in the foreground, as its unit does.")
    about(one)
    one = add("serve", commands.serve, "Serve an app without a file, in the foreground.")
    one.usage = "prefork-sd serve [OPTIONS] MODULE:CALLABLE"
    one.add_argument("app", metavar="MODULE:CALLABLE", help=SETTINGS["app"].help)
    _add_settings(one)
    one = add("check", commands.check, "Check a service's configuration and import its app.")
    one.description = CHECKED
    about(one)
    one = add(
        "reload", remote.reload, "Have a service serve what is on disk now; wait for the verdict."
    )
    about(one, optional=True)
    one.add_argument("--timeout", type=float, default=remote.RELOAD_TIMEOUT, help="seconds to wait")
    one = add("deploy", remote.deploy, "Reload services that run, start those that are new.")
    one.add_argument("services", nargs="+", metavar="SERVICE", help="a service's name")
    one = add("scale", remote.scale, "Keep another number of workers, until the service stops.")
    about(one)
    one.add_argument("workers", type=int, metavar="WORKERS", help=f"how many, 1 to {MOST_WORKERS}")
    one = add("status", remote.status, "Show a service's workers, or all services of this machine.")
    about(one, optional=True)
    one.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    one.add_argument("--watch", action="store_true", help="show it again every two seconds")
    one = add("unit", commands.unit, "Print the systemd units that are generated for a service.")
    about(one)
    add("schema", commands.print_schema, "Print the JSON Schema of a service's YAML file.")
    return top


def _add_settings(one: Parser) -> None:
    """An option for each setting, from its declaration."""
    for each in SETTINGS.values():
        if each.name in NOT_FOR_SERVE:
            continue
        shown = ", ".join(each.default) if isinstance(each.default, tuple) else each.default
        text = f"{each.help} [{shown}]".replace("%", "%%").replace(" []", "").replace(" [{}]", "")
        many = each.name in ("bind", "tls_bind", "status_bind", "pythonpath", "env")
        one.add_argument(
            f"--{each.name.replace('_', '-')}",
            dest=f"set_{each.name}",
            action="append" if many else "store",
            metavar=(each.unit or each.name).upper().replace(" ", "_"),
            help=text,
        )
