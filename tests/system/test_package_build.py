"""The packages are built in clean trees, with the Build-Depends alone; lintian judges them."""

import shutil
from pathlib import Path

import pytest

from tests.checkout import TOP, copy_checkout
from tests.system.chroot import in_chroot
from tests.system.conftest import SUITES, need_machines, packaging

BUILD = """
cd /shared/prefork-sd
find . | sort >../before
dpkg-checkbuilddeps
dpkg-buildpackage --no-sign >../log 2>&1
debian/rules clean >>../log 2>&1
find . | sort >../after

dpkg --install /srv/depends/*.deb /shared/prefork-sd_*.deb
cd /shared/example-app
dpkg-checkbuilddeps
dpkg-buildpackage --no-sign >>../log 2>&1
"""


RENDER = """
dpkg-deb --extract /shared/prefork-sd_*.deb /tmp/root
for page in /tmp/root/usr/share/man/man*/*; do
    echo "${page##*/}"
    MANWIDTH=80 man --warnings --encoding=UTF-8 --local-file --troff-device=utf8 "$page" >/tmp/text
    test -s /tmp/text
done
"""


@pytest.fixture(scope="module", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    need_machines()
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def built(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both source packages and what was built of them."""
    folder = tmp_path_factory.mktemp("build")
    copy_checkout(folder / "prefork-sd")
    shutil.copytree(TOP / "packaging" / "example-app", folder / "example-app")
    in_chroot(Path(packaging("trees", f"build-{suite}")), BUILD, folder)
    return folder


def test_the_build_depends_suffice(built: Path) -> None:
    names = {path.name.partition("_")[0] for path in built.glob("*_all.deb")}
    assert names == {"prefork-sd", "hello-web"}


def test_clean_leaves_the_source_as_it_was(built: Path) -> None:
    assert (built / "after").read_text() == (built / "before").read_text()


def test_lintian_has_nothing_to_say(built: Path, suite: str) -> None:
    judge = "lintian --allow-root --pedantic --fail-on=pedantic,warning,error /shared/*.changes"
    done = in_chroot(Path(packaging("trees", f"lint-{suite}")), judge, built)
    assert done.out == ""


def test_the_manual_renders_without_a_warning(built: Path, suite: str) -> None:
    done = in_chroot(Path(packaging("trees", f"lint-{suite}")), RENDER, built)
    pages = {"dh_prefork_sd.1", "prefork-sd.8", "prefork-sd-generator.8"}
    pages |= {"prefork-sd.hooks.5", "prefork-sd.yaml.5"}
    assert set(done.out.split()) == {f"{page}.gz" for page in pages}
    assert done.err == ""
