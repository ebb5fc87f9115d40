"""Whether the service's user may read what it has to, by the permission bits of each folder."""

import shlex
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from prefork_sd.checks.finding import Finding
from prefork_sd.units import HOMES

READ, WRITE, SEARCH = 4, 2, 1  # as in the permission bits of inode(7)
SHOWN_MAX = 3
# without which a start fails; more than that is for imports, and the app may come from elsewhere
NEEDED = {"file": READ, "env_file": READ, "hooks": READ, "directory": SEARCH, "venv": SEARCH}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who reads. Without a `uid`, somebody who owns nothing (DynamicUser) but may have groups."""

    name: str
    uid: int | None = None
    gids: frozenset[int] = frozenset()

    def __str__(self) -> str:
        return f"the user {self.name}" if self.uid is not None else "the service's own user"


@dataclass(frozen=True, slots=True)
class Node:
    """One file or folder. `listed` where an access control list, unknown here, has its say."""

    path: str
    mode: int
    uid: int
    gid: int
    listed: bool = False

    def allows(self, identity: Identity, wanted: int) -> bool:
        """Whether the bits grant it; root and lists are granted everything."""
        if self.listed or identity.uid == 0:
            return True
        if identity.uid == self.uid:
            granted = self.mode >> 6
        elif self.gid in identity.gids:
            granted = self.mode >> 3
        else:
            granted = self.mode
        return granted & wanted == wanted


def denied(way: Sequence[Node], identity: Identity, wanted: int = READ) -> Node | None:
    """The first on the way from / that does not let them through, or None.

    Folders have to be searched, and the last of the way has to grant what is wanted.
    """
    for node in way[:-1]:
        if not node.allows(identity, SEARCH):
            return node
    if way:
        last = way[-1]
        need = wanted | (SEARCH if stat.S_ISDIR(last.mode) else 0)
        if not last.allows(identity, need):
            return last
    return None


def closed_path(key: str, way: Sequence[Node], identity: Identity) -> Finding | None:
    """What keeps the service from a path of its configuration, if anything does."""
    node = denied(way, identity)
    if node is None:
        return None
    mode = f"mode {stat.S_IMODE(node.mode):04o}"
    where = "" if node.path == way[-1].path else f"{node.path} on its way, "
    folder = stat.S_ISDIR(node.mode)
    bits = "o+rx" if folder and node.path == way[-1].path else "o+x" if folder else "o+r"
    home = any(PurePath(node.path).is_relative_to(one) for one in HOMES)
    move = f"move it out of {node.path} (to /srv, say), or " if home else ""
    mend = f"{move}chmod {bits} {shlex.quote(node.path)}"
    if key == "env_file":
        instead = f"unit: {{Service: {{EnvironmentFile: {way[-1].path}}}}}"
        mend = f"if it has secrets, {instead} in place of env_file, which root reads; else {mend}"
    return Finding(
        f"{key}: {way[-1].path} is closed to {identity}: {where}{mode}",
        "the service could not read it",
        mend,
        stops=key in NEEDED and denied(way, identity, NEEDED[key]) is not None,
    )


def closed_files(
    folder: str, nodes: Iterable[Node], identity: Identity, own: Collection[str]
) -> Finding | None:
    """The files of the app that the service cannot read, as one finding.

    Without those that are its `own`, its module and the packages around it, nothing starts.
    """
    closed = [node for node in nodes if denied([node], identity)]
    if not closed:
        return None
    closed.sort(key=lambda node: node.path not in own)
    stops = closed[0].path in own
    shown = ", ".join(node.path for node in closed[:SHOWN_MAX])
    more = f" and {len(closed) - SHOWN_MAX} more" if len(closed) > SHOWN_MAX else ""
    return Finding(
        f"directory: closed to {identity}: {shown}{more}",
        "the app could not be imported" if stops else "an import of these would fail",
        f"chmod -R o+rX {shlex.quote(folder)}",
        stops=stops,
    )
