"""The demo where no systemd runs: packaging/demo_container.py [TREE DEB APP], in a booted tree.

Without arguments it only says whether a tree can be booted here.
"""

import sys
from pathlib import Path

from tests.system.machine import CommandError, Machine, why_not


def main(*places: Path) -> int:
    if reason := why_not():
        print(f"no Debian tree can be booted here: {reason}", file=sys.stderr)
        print('without systemd, "prefork-sd serve" can be tried: see the README', file=sys.stderr)
        return 1
    return show(*places) if places else 0


def show(tree: Path, deb: Path, app: Path) -> int:
    machine = Machine(tree, "demo")
    try:
        machine.boot()
        machine.copy(deb, f"/root/{deb.name}")
        print(machine.run(f"apt-get install -q -y /root/{deb.name}").out)
        machine.run("mkdir /root/demo")
        for file in app.iterdir():
            machine.copy(file, f"/root/demo/{file.name}")
        print(machine.run("bash /root/demo/show 2>&1").out)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        machine.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
