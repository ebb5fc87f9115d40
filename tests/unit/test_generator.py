"""The generator: a whole run as systemd makes it, for good and for broken services."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
PROGRAM = f"""
import sys
sys.path.insert(0, {str(HOUSE)!r})
from prefork_sd.generator import main
code = main()
print(*sorted(sys.modules))
sys.exit(code)
"""
GOOD = "app: shop:application\n"

Generate = Callable[[], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr").mkdir()
    return tmp_path / "etc"


@pytest.fixture
def late(tmp_path: Path) -> Path:
    return tmp_path / "late"


@pytest.fixture
def generate(tmp_path: Path, etc: Path, late: Path) -> Generate:
    def generate() -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "no"), str(tmp_path / "no"), str(late)],
            env={"PATH": os.defpath, "PREFORK_SD_CONFIG_PATH": f"{etc}:{tmp_path / 'usr'}"},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "no").exists()
        return done

    return generate


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_a_service_becomes_units_with_links_for_the_boot(
    generate: Generate, etc: Path, late: Path
) -> None:
    (etc / "shop.yaml").write_text(GOOD)
    assert generate().stderr == ""
    assert files(late) == [
        "multi-user.target.wants/shop.service",
        "shop.service",
        "shop.socket",
        "sockets.target.wants/shop.socket",
    ]
    assert (late / "multi-user.target.wants/shop.service").samefile(late / "shop.service")
    assert (late / "sockets.target.wants/shop.socket").samefile(late / "shop.socket")
    assert f"SourcePath={etc / 'shop.yaml'}" in (late / "shop.service").read_text()


TLS = "bind: 8000\ntls_bind: 8443\ntls_certificate: /c\ntls_key: /k\n"


@pytest.mark.parametrize("problem", ["", "wrokers: 3\n"])
def test_every_socket_is_wanted_even_of_a_broken_file(
    generate: Generate, etc: Path, late: Path, problem: str
) -> None:
    (etc / "shop.yaml").write_text(GOOD + problem + TLS)
    generate()
    assert files(late) == [
        "multi-user.target.wants/shop.service",
        "shop-tls.socket",
        "shop.service",
        "shop.socket",
        "sockets.target.wants/shop-tls.socket",
        "sockets.target.wants/shop.socket",
    ]


def test_two_services_cannot_have_one_socket(generate: Generate, etc: Path, late: Path) -> None:
    (etc / "shop.yaml").write_text(GOOD + TLS)
    (etc / "shop-tls.yaml").write_text(GOOD)
    assert "shop-tls.socket belongs to the service of that name" in generate().stderr
    assert "FileDescriptorName=http\n" in (late / "shop-tls.socket").read_text()
    assert not (late / "shop.service").exists()


def test_running_again_is_fine(generate: Generate, etc: Path, late: Path) -> None:
    (etc / "shop.yaml").write_text(GOOD)
    generate()
    before = files(late)
    assert generate().stderr == ""
    assert files(late) == before


def test_what_is_not_enabled_is_not_wanted(generate: Generate, etc: Path, late: Path) -> None:
    (etc / "shop.yaml").write_text(GOOD + "enabled: false\n")
    generate()
    assert files(late) == ["shop.service", "shop.socket"]


def test_a_broken_service_is_named_and_harms_no_other(
    generate: Generate, etc: Path, late: Path
) -> None:
    (etc / "a.yaml").write_text(GOOD + "wrokers: 3\ntimeout: x\nbind: 8001\n")
    (etc / "b.yaml").write_text("app: [\n")
    (etc / "c d.yaml").write_text(GOOD)
    (etc / "e.yaml").symlink_to("absent")
    (etc / "shop.yaml").write_text(GOOD)
    said = generate().stderr
    made = {name for name in files(late) if "/" not in name}
    assert made == {
        "a.service",
        "a.socket",
        "b.service",
        "e.service",
        "shop.service",
        "shop.socket",
    }
    start = "prefork-sd-generator: a.service: "
    assert f'{start}{etc}/a.yaml:2: unknown setting "wrokers"; did you mean "workers"?' in said
    assert f"{etc}/a.yaml:3: timeout: must be a time" in said
    assert f"{etc}/b.yaml:2: not valid YAML" in said
    assert f"{etc}/c d.yaml: the file's name cannot be that of a unit" in said
    assert f"{etc}/e.yaml: cannot be read: No such file" in said
    assert len(said.splitlines()) == 5


def test_a_broken_service_keeps_what_is_right(generate: Generate, etc: Path, late: Path) -> None:
    (etc / "a.yaml").write_text(GOOD + "wrokers: 3\nbind: 8001\nboot_timeout: 90\n")
    generate()
    assert "ListenStream=127.0.0.1:8001" in (late / "a.socket").read_text()
    assert "TimeoutStartSec=100s" in (late / "a.service").read_text()


def test_an_unreadable_service_can_still_be_asked_to_reload(
    generate: Generate, etc: Path, late: Path
) -> None:
    (etc / "b.yaml").write_text("app: [\n")
    generate()
    text = (late / "b.service").read_text()
    assert "ExecReload=/usr/bin/prefork-sd reload" in text
    assert "b.socket" not in text
    assert files(late) == ["b.service"]


def test_the_first_folder_wins_and_an_empty_file_masks(
    generate: Generate, etc: Path, late: Path, tmp_path: Path
) -> None:
    for name in ("shop", "off", "null", "own"):
        (tmp_path / f"usr/{name}.yaml").write_text(GOOD)
    (etc / "shop.yaml").write_text(GOOD + "watchdog: 7\n")
    (etc / "off.yaml").touch()
    (etc / "null.yaml").symlink_to("/dev/null")
    assert generate().stderr == ""
    assert {Path(file).stem for file in files(late)} == {"shop", "own"}
    assert "WatchdogSec=7s" in (late / "shop.service").read_text()
    assert f"SourcePath={tmp_path}/usr/own.yaml" in (late / "own.service").read_text()


def test_hidden_paths_are_noted_but_made(generate: Generate, etc: Path, late: Path) -> None:
    (etc / "shop.yaml").write_text(GOOD + "directory: /home/me/shop\n")
    assert "hidden by ProtectHome=yes" in generate().stderr
    assert len(files(late)) == 4


def test_more_targets_may_want_it(generate: Generate, etc: Path, late: Path) -> None:
    (etc / "shop.yaml").write_text(GOOD + "unit: {Install: {WantedBy: graphical.target}}\n")
    generate()
    assert (late / "graphical.target.wants/shop.service").is_symlink()


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["1", "2", "3", "4"]])
def test_wrong_arguments_do_no_harm(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0
    assert "usage: prefork-sd-generator" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_told(
    generate: Generate, etc: Path, late: Path
) -> None:
    (etc / "shop.yaml").write_text(GOOD)
    late.write_text("a file is in the way")
    assert "no shop.service is made" in generate().stderr


def test_it_stays_light_and_fast(generate: Generate, etc: Path) -> None:
    for number in range(50):
        (etc / f"shop{number}.yaml").write_text(GOOD + "unit: {Service: {MemoryMax: 1G}}\n")
    best = 10.0
    for _ in range(3):
        start = time.monotonic()
        done = generate()
        best = min(best, time.monotonic() - start)
    heavy = {"logging", "asyncio", "socket", "subprocess", "threading", "multiprocessing"}
    assert heavy.isdisjoint(done.stdout.split())
    assert best < 1.0  # about 0.1 on an idle machine; a bound that a busy one keeps


def test_a_file_that_ends_in_yml_is_told(generate: Generate, etc: Path, late: Path) -> None:
    (etc / "shop.yml").write_text(GOOD)
    assert f"{etc}/shop.yml is no service" in generate().stderr
    assert not late.exists()
