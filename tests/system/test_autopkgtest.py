"""debian/tests, run by autopkgtest as Debian would run it."""

import tarfile
from pathlib import Path

from tests.system.machine import Machine

TOP = Path(__file__).parents[2]

# debian/files tells autopkgtest that the tree is built. The machine is thrown away, which is all
# that the ignored restrictions ask for.
RUN = r"""
set -e
cd /root
tar -xf source.tar
touch source/debian/files
autopkgtest --ignore-restrictions=isolation-container,breaks-testbed \
    --output-dir=/root/output /root/{deb} /root/source -- null >/root/log 2>&1 || \
    cat /root/log /root/output/service-std*
cat /root/output/summary
"""


def test_autopkgtest_passes(bare_machine: Machine, deb: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.tar"
    with tarfile.open(source, "w") as archive:
        archive.add(TOP / "debian", "source/debian")
    bare_machine.copy(source, "/root/source.tar")
    bare_machine.copy(deb, f"/root/{deb.name}")
    done = bare_machine.run(RUN.format(deb=deb.name))
    assert done.out.split() == ["service", "PASS"], done.out
