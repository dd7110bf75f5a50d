# SPDX-License-Identifier: BSD-3-Clause
"""`tools/set-up` on systems that lack something, and on those that have no apt.

Each test has its own mounts, so it needs root. The system's own programs are hidden by a PATH.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

TOOLS = ("sh", "cat", "dirname", "id", "sha256sum", "sort", "rm")
"""The programs that the script itself runs."""

KICKBENCH = Path(sys.executable).with_name("kickbench")

FEDORA = "ID=fedora\n"
ARCH = "ID=arch\n"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with all programs of the system; tests add some."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def _run(
    command: list[str | Path], programs: Path, os_release: str
) -> subprocess.CompletedProcess[str]:
    """Run a command on a system with this os-release and only these programs."""
    release = programs.with_name("os-release")
    release.write_text(os_release)
    # The script looks into /usr/sbin too.
    mounts = (
        f"mount --bind {release} /etc/os-release && mount -t tmpfs none /usr/sbin && exec "
        f"env PATH={programs} {shlex.join(map(str, command))}"
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounts],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )


@pytest.mark.parametrize(
    "os_release, sentence",
    [
        (
            FEDORA,
            "these packages are missing: run `dnf install bsdtar busybox fuse3 gdb git-core "
            "iproute iproute-tc kmod procps-ng qemu-system-x86-core util-linux` as root",
        ),
        (
            ARCH,
            "install these missing programs; their packages on this system are not known: bsdtar "
            "busybox depmod fusermount3 gdb git ip modprobe mount ps qemu-system-x86_64 setpriv "
            "ss tc umount",
        ),
    ],
)
@pytest.mark.parametrize(
    "command", [[CHECKOUT / "tools" / "set-up", "--programs"], [KICKBENCH, "set-up"]], ids=str
)
def test_without_apt_it_names_what_to_install(
    programs: Path, command: list[str | Path], os_release: str, sentence: str
) -> None:
    done = _run(command, programs, os_release)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"set-up: {sentence}\n")


def test_without_apt_installed_programs_are_not_named(programs: Path) -> None:
    for name in (
        "ip",
        "tc",
        "ss",
        "gdb",
        "fusermount3",
        "mount",
        "umount",
        "ps",
        "setpriv",
        "modprobe",
        "depmod",
        "busybox",
        "bsdtar",
        "git",
    ):
        (programs / name).write_text("")
        (programs / name).chmod(0o755)
    done = _run([CHECKOUT / "tools" / "set-up", "--programs"], programs, FEDORA)
    assert done.stderr == (
        "set-up: these packages are missing: run `dnf install qemu-system-x86-core` as root\n"
    )


def test_without_apt_python_is_set_up_nevertheless(programs: Path, tmp_path: Path) -> None:
    """The list of Python packages is empty, because installing them would take a minute."""
    checkout = tmp_path / "checkout"
    (checkout / "tools").mkdir(parents=True)
    for name in ("tools/set-up", "tools/packages"):
        shutil.copy(CHECKOUT / name, checkout / name)
    (checkout / "requirements.lock").touch()
    (checkout / "pyproject.toml").write_text('[project]\nname = "nothing"\nversion = "1"\n')
    (programs / "python3").symlink_to(sys.executable)
    done = _run([checkout / "tools" / "set-up"], programs, FEDORA)
    assert done.returncode == 1
    assert "run `dnf install " in done.stderr
    assert "making .venv with Python 3" in done.stdout
    assert (checkout / ".venv" / "bin" / "python").exists()


def test_without_python_the_needed_version_is_named(programs: Path) -> None:
    done = _run([CHECKOUT / "tools" / "set-up", "--python"], programs, ARCH)
    assert done.returncode == 1
    assert "no Python 3.11 or later with venv was found" in done.stderr
