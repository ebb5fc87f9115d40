"""The pid file: who serves, for tools that want to know it from a file."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from prefork_sd.errors import ConfigError, Problem

MOST_BYTES = 32


class Pidfile:
    """The file at `path`, which holds our pid from `create` to `unlink`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # the working directory may change later
        self.pid = 0

    def create(self, pid: int) -> None:
        """Write `pid`, readable for all, in one step. The pid of a dead process is replaced.

        Raises ConfigError if another living process holds the file, if the file is not a pid
        file at all, or if it cannot be written.
        """
        if (holder := self.validate()) not in (None, pid):
            raise self._problem(f"process {holder} is running and holds this file")
        try:
            self._write(pid)
        except OSError as error:
            raise self._problem(f"cannot be written: {error.strerror}") from error
        self.pid = pid

    def validate(self) -> int | None:
        """Return the pid in the file if that process lives; None if it does not, or no file.

        Raises ConfigError if the file holds something else than a pid.
        """
        try:
            with self.path.open("rb") as file:
                content = file.read(MOST_BYTES).strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._problem(f"cannot be read: {error.strerror}") from error
        if not content:
            return None
        if not content.isdigit() or not 0 < int(content) < 2**31:
            raise self._problem("is not a pid file; it is left as it is")
        return int(content) if _lives(int(content)) else None

    def unlink(self) -> None:
        """Remove the file if it holds our pid and we are the process that wrote it."""
        if self.pid != os.getpid():
            return
        with suppress(OSError):
            if self.path.read_bytes().strip() == b"%d" % self.pid:
                self.path.unlink()

    def _write(self, pid: int) -> None:
        fd, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(b"%d\n" % pid)
                os.fchmod(fd, 0o644)
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink()
            raise

    def _problem(self, text: str) -> ConfigError:
        return ConfigError(Problem(f"{self.path}: {text}", key="pidfile"))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # someone else's, and it lives
        return True
    return True
