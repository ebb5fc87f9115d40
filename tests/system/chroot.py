"""A throw-away copy of a Debian tree that is not booted: commands in a chroot, as builds run."""

import shlex
import subprocess
from pathlib import Path

from tests.system.machine import ENVIRONMENT, CommandError, Done

# Runs in its own mount and PID namespace: what is mounted or started here goes with it.
ENTER = """
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
mount -t proc proc "$1/root/proc"
mount --bind /dev "$1/root/dev"
mkdir "$1/root/shared"
mount --bind "$3" "$1/root/shared"
exec chroot "$1/root" sh -ec "$4"
"""


def in_chroot(tree: Path, command: str, shared: Path, *, timeout: float = 300.0) -> Done:
    """Run a shell command as root in a copy of the tree, with `shared` as /shared; it must succeed.

    systemd does not run there, and there is no network.
    """
    mounts = shared.parent / f"{shared.name}.mounts"
    mounts.mkdir(exist_ok=True)
    unshared = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"]
    run = subprocess.run(
        [*unshared, "sh", "-c", ENTER, "-", str(mounts), str(tree), str(shared), command],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    done = Done(
        shlex.join(["chroot", str(tree), command]), run.returncode, run.stdout, run.stderr, 0
    )
    if done.status:
        raise CommandError(done)
    return done
