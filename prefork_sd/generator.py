"""The systemd generator: every declared service becomes its units, see systemd.generator(7)."""

import os
import sys
from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path

from prefork_sd.building import build, salvage
from prefork_sd.config import Config
from prefork_sd.errors import ConfigError, Problem
from prefork_sd.sources import NAME, executable, masked, misnamed, read, services, templates
from prefork_sd.units import notes, render, sockets, wanted_by

NAME_MAX = 200  # characters; a unit name has at most 255
JOURNAL = "/run/systemd/journal/socket"
ERROR, NOTICE = 3, 5  # priorities of syslog(3)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the units of all services into the late directory; always return 0.

    `argv` has the directories normal, early and late. Real units of the same name win over the
    late directory. What is wrong with a service is told in the journal, and harms no other.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) not in (1, 3):
        say(ERROR, "usage: prefork-sd-generator NORMAL EARLY LATE")
        return 0
    late = Path(arguments[-1])
    try:
        texts = templates()
        found = services()
    except OSError as error:
        say(ERROR, f"no unit is made: {error}")
        return 0
    for stray in misnamed():
        say(NOTICE, f"{stray} is no service: its name has to end in .yaml")
    for name, source in found.items():
        try:
            generate(name, source, late, texts, found)
        except ConfigError as error:
            for problem in error.problems:
                say(ERROR, f"{name}.service: {problem}")
        except Exception as error:  # noqa: BLE001 (one service must not take the others along)
            say(ERROR, f"no {name}.service is made: {source}: {error!r}")
    return 0


def generate(
    name: str, source: Path, late: Path, texts: dict[str, str], services: Container[str] = ()
) -> None:
    """Write the units of one service and its links for the boot. Raises ConfigError.

    A broken file still gets its units, from what is right in it: a start fails then with the
    reason, and `systemctl reload` of a service that runs goes on to exist, to say the reason.
    Of a file that cannot even be read there is no socket, as nobody knows where it should listen.
    """
    if masked(source):
        return
    if not NAME.fullmatch(name) or len(name) > NAME_MAX:
        raise ConfigError(Problem("the file's name cannot be that of a unit", file=str(source)))
    units = partial(render, name, source=str(source), executable=executable(), templates=texts)
    try:
        values, lines = read(source)
    except ConfigError:
        alone = units(Config())[f"{name}.service"]
        kept = [line for line in alone.splitlines() if f"={name}.socket" not in line]
        _write(late, f"{name}.service", "\n".join(kept) + "\n")
        raise
    try:
        cfg, problem = build(values, file=str(source), lines=lines), None
    except ConfigError as error:
        cfg, problem = salvage(values), error
    for socket in sockets(name, cfg):
        if socket.name != name and socket.name in services:
            text = f"{socket.unit} belongs to the service of that name; rename one of them"
            raise ConfigError(Problem(text, file=str(source)))
    for file, text in units(cfg).items():
        _write(late, file, text)
    if cfg.enabled:
        for unit in wanted_by(cfg):
            _want(late, unit, f"{name}.service")
        for socket in sockets(name, cfg):
            _want(late, "sockets.target", socket.unit)
    if problem is not None:
        raise problem
    for note in notes(cfg):
        say(NOTICE, f"{source}: {note}")


def _write(late: Path, file: str, text: str) -> None:
    late.mkdir(parents=True, exist_ok=True)
    (late / file).write_text(text, encoding="utf-8")


def _want(late: Path, wanting: str, unit: str) -> None:
    folder = late / f"{wanting}.wants"
    folder.mkdir(exist_ok=True)
    link = folder / unit
    link.unlink(missing_ok=True)
    link.symlink_to(f"../{unit}")


def say(priority: int, text: str) -> None:
    """Log a line where it is heard: under systemd in the journal or else the kernel log.

    Never waits: at boot nobody may be reading yet. Everywhere else it goes to stderr.
    """
    line = text.replace("\n", " ")
    heard = "SYSTEMD_SCOPE" in os.environ and (
        _journal(priority, line) or _kernel_log(priority, line)
    )
    if not heard:
        sys.stderr.write(f"prefork-sd-generator: {line}\n")


def _journal(priority: int, line: str) -> bool:
    import socket  # costs milliseconds, which only a problem is worth

    record = f"PRIORITY={priority}\nSYSLOG_IDENTIFIER=prefork-sd-generator\nMESSAGE={line}\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(record.encode(errors="replace"), socket.MSG_DONTWAIT, JOURNAL)
    except OSError:
        return False
    return True


def _kernel_log(priority: int, line: str) -> bool:
    try:
        log = os.open("/dev/kmsg", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(log, f"<{priority}>prefork-sd-generator[{os.getpid()}]: {line}\n".encode())
    except OSError:
        return False
    finally:
        os.close(log)
    return True


if __name__ == "__main__":
    sys.exit(main())
