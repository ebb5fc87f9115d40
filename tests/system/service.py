"""One application on a machine: its code, its YAML, its units."""

import json
import textwrap
from pathlib import Path
from typing import Any

from tests.system.machine import Done, Machine

# Answers with its version and the worker's pid: "1 4711". The rest of a test's app follows it.
FLASK = """
import os, sys, time
from flask import Flask

VERSION = "1"
app = Flask(__name__)

@app.route("/")
def index():
    return f"{VERSION} {os.getpid()}"
"""

# To be added to it: a request that never ends, and says so first.
HANGING_PAGE = """
def stuck_here():
    while True:
        time.sleep(1)

@app.route("/hang")
def hang():
    print("about to hang", flush=True)
    stuck_here()
"""


class Service:
    """`NAME.service` and `NAME.socket`, made of /etc/prefork-sd/NAME.yaml and /srv/NAME/app.py."""

    def __init__(
        self, machine: Machine, name: str, *more: str, code: str = FLASK, **settings: Any
    ) -> None:
        self.machine, self.name = machine, name
        self.yaml = f"/etc/prefork-sd/{name}.yaml"
        self.state = f"/var/lib/prefork-sd/{name}"
        self.unix = f"/run/prefork-sd/{name}.sock"
        self.code = "\n".join(textwrap.dedent(part) for part in (code, *more))
        self.settings: dict[str, Any] = {
            "app": "app:app",
            "directory": f"/srv/{name}",
            "workers": 2,
        } | settings
        self.deploy(self.code)
        self.configure()
        machine.run("systemctl daemon-reload")

    def deploy(self, code: str) -> None:
        """Put this code in place of the app's."""
        self.machine.write(f"/srv/{self.name}/app.py", code)

    def version(self, text: str) -> str:
        """The app's code with another VERSION."""
        return self.code.replace('VERSION = "1"', f'VERSION = "{text}"')

    def configure(self, **settings: Any) -> None:
        """Write the YAML with these settings changed."""
        values = self.settings | settings
        lines = (f"{key}: {json.dumps(value)}\n" for key, value in values.items())
        self.machine.write(self.yaml, "".join(lines))

    def remove(self) -> None:
        """Stop it and take its YAML and units away."""
        self.machine.run(f"systemctl stop {self.name}.socket {self.name}.service")
        self.machine.run(f"rm {self.yaml} && systemctl daemon-reload")

    def systemctl(self, verb: str, check: bool = True, timeout: float = 60.0) -> Done:
        return self.machine.run(f"systemctl {verb} {self.name}", check=check, timeout=timeout)

    def show(self, name: str) -> str:
        return self.machine.show(f"{self.name}.service", name)

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def pids(self) -> set[int]:
        """All processes of the service, as the machine numbers them."""
        group = self.show("ControlGroup")
        if not group:
            return set()
        listing = self.machine.run(
            f"find /sys/fs/cgroup{group} -name cgroup.procs -exec cat {{}} +"
        )
        return {int(pid) for pid in listing.out.split()}

    def workers(self) -> set[int]:
        """The worker processes, ready or not."""
        return self.pids() - {self.main_pid}

    def get(self, path: str = "/") -> str:
        """A page, by the first address of `bind`."""
        bind = self.settings.get("bind", f"unix:{self.unix}")
        first = bind if isinstance(bind, str) else bind[0]
        if first.startswith("unix:"):
            url, how = f"http://{self.name}{path}", ("--unix-socket", first.removeprefix("unix:"))
            return self.machine.curl(url, "--fail", *how).out
        return self.machine.curl(f"http://{first}{path}", "--fail").out

    def records(self, **fields: str) -> list[dict[str, Any]]:
        """The service's journal; of `fields`, each has to be in the text of a record's field."""
        return [
            record
            for record in self.machine.journal(f"{self.name}.service")
            if all(text in str(record.get(field, "")) for field, text in fields.items())
        ]

    def lines(self, file: str) -> list[str]:
        """The lines of a file that the app wrote in its StateDirectory."""
        return self.machine.read(str(Path(self.state) / file)).splitlines()
