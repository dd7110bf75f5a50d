# SPDX-License-Identifier: BSD-3-Clause
"""The commands that install a missing program on several systems."""

import platform
import shutil
import subprocess

import pytest

from bench_lib.host import needs, packages
from tests.conftest import CHECKOUT

UBUNTU = {"ID": "ubuntu", "ID_LIKE": "debian"}
FEDORA = {"ID": "fedora"}
RED_HAT = {"ID": "centos", "ID_LIKE": "rhel fedora"}


@pytest.fixture
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system of the test's parameter; as root, who needs no sudo."""
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: request.param)
    monkeypatch.setattr("os.geteuid", lambda: 0)


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize(
    "system, command",
    [
        (
            UBUNTU,
            "apt-get update && apt-get install --yes --no-install-recommends iproute2 gdb",
        ),
        (FEDORA, "dnf install --assumeyes iproute iproute-tc gdb"),
        (RED_HAT, None),
        ({"ID": "arch"}, None),
    ],
    indirect=["system"],
)
def test_each_system_has_its_own_package_names(command: str | None) -> None:
    assert packages.install("ip", "tc", "gdb") == command


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("system", [FEDORA], indirect=True)
@pytest.mark.parametrize("program", ["qemu-system-sparc64", "mmdebstrap"])
def test_there_is_no_command_for_a_program_without_a_known_package(program: str) -> None:
    assert packages.install(program) is None


def test_a_system_without_os_release_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> None:
        raise FileNotFoundError

    monkeypatch.setattr(platform, "freedesktop_os_release", nameless)
    assert packages.install("gdb") is None


def test_every_program_that_trials_need_is_in_the_list() -> None:
    listed = {
        line.split()[0]
        for line in (CHECKOUT / "tools" / "packages").read_text().splitlines()
        if not line.startswith("#")
    }
    assert {*needs.TOOLS, needs.GDB, "modprobe", "depmod", "busybox", "bsdtar"} <= listed


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg")
def test_the_packages_of_debian_are_those_that_hold_the_programs() -> None:
    """Checks the programs that are installed here; on a host for all tests, that is every one."""
    checked = set()
    for line in (CHECKOUT / "tools" / "packages").read_text().splitlines():
        program, debian, *_ = [*line.split(), "", ""]
        found = None if line.startswith("#") else shutil.which(program, path="/usr/bin:/usr/sbin")
        if found is None:
            continue
        # A program that is a link belongs to the package of the link.
        owner = subprocess.run(
            ["dpkg-query", "--search", f"*{found.removeprefix('/usr')}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"{debian}:" in owner or f"{debian}," in owner, line
        checked.add(program)
    assert {"gcc", "git", "xz"} <= checked, "tests/unit needs these"
