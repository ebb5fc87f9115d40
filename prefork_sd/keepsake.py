"""What outlives a restart: a small memory file in systemd's file descriptor store."""

import json
import os
from typing import Any

NAME = "state"
MOST_BYTES = 65536


class Keepsake:
    """Values by name. Written at once; lost only with the service's stop (systemd.service(5),
    FileDescriptorStoreMax=)."""

    def __init__(self, fd: int = -1) -> None:
        self.new = fd < 0  # systemd does not have it yet
        self.fd = os.memfd_create("prefork-sd-state", os.MFD_CLOEXEC) if fd < 0 else fd
        self._values = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(os.pread(self.fd, MOST_BYTES, 0) or b"{}")
        except ValueError:  # of another version, or cut short by a crash
            return {}
        return values if isinstance(values, dict) else {}

    def close(self) -> None:
        """Let go of it, in a child."""
        os.close(self.fd)

    def get(self, name: str) -> Any:
        return self._values.get(name)

    def put(self, **values: object) -> None:
        """Keep these; None forgets."""
        kept = {**self._values, **values}
        self._values = {name: value for name, value in kept.items() if value is not None}
        data = json.dumps(self._values).encode()
        os.pwrite(self.fd, data + b" " * 8, 0)
        os.ftruncate(self.fd, len(data))
