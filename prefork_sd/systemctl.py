"""What systemctl(1) shows of a unit, and whether there is a systemd that could be asked."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

SYSTEMD = Path("/run/systemd/system")  # is there where systemd is PID 1: sd_booted(3)


def booted() -> bool:
    """Whether systemd runs this machine."""
    return SYSTEMD.is_dir()


def run(words: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with what it says. Raises OSError and TimeoutExpired."""
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout)


def properties(said: str) -> dict[str, str]:
    """The lines of `systemctl show`; what is said several times, with spaces between."""
    found: dict[str, str] = {}
    for line in said.splitlines():
        key, _, value = line.partition("=")
        found[key] = f"{found.get(key, '')} {value}".strip()
    return found
