"""What a service finds again after a restart or a crash: what systemd has kept of it meanwhile.

That is the file descriptor store of sd_notify(3): the scoreboard with its counters, the keepsake
with the number of workers, and the listeners that we bound ourselves.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefork_sd import keepsake, reexec
from prefork_sd.keepsake import Keepsake

if TYPE_CHECKING:
    from prefork_sd.arbiter import Arbiter


def remember(server: "Arbiter", memory: Mapping[str, int]) -> None:
    """Take up what was counted, and the number of workers, if somebody had set one."""
    if reexec.SCOREBOARD in memory and reexec.MEMORY not in memory:
        reexec.inherit(server, memory[reexec.SCOREBOARD])
    elif reexec.SCOREBOARD not in memory:
        server.herald.keep(reexec.SCOREBOARD, server.scoreboard.fd)
    server.keepsake = Keepsake(memory.get(keepsake.NAME, -1))
    if server.keepsake.new:
        server.herald.keep(keepsake.NAME, server.keepsake.fd)
    elif server.keepsake.get("configured") == server.release.workers:
        server.num_workers = server.keepsake.get("workers")


def keep_listeners(server: "Arbiter", left: Mapping[str, int]) -> None:
    """Have systemd keep the listeners of our own.

    `left` are those of a former life that nobody wants any more.
    """
    for label, fd in left.items():
        os.close(fd)
        server.herald.forget(label)
    for listener in [*server.sockets, *server.monitors]:
        listener.kept = listener.ours and server.herald.keeps
        if listener.label:
            server.herald.keep(listener.label, listener.sock.fileno())
