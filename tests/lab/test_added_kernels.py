# SPDX-License-Identifier: BSD-3-Clause
"""Kernels in packages of other distributions, which are added, booted and measured.

Each package is made with the distribution's own tool, from the files of a Debian kernel.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench_lib.cli.kernels import bootable
from bench_lib.kernel.store import Bootable
from bench_lib.record import Outcome
from bench_lib.settings import Settings
from tests import make
from tests.host.conftest import Command
from tests.lab.conftest import HANG_S

pytestmark = pytest.mark.timeout(HANG_S + 300)

TRIALS = 3
"""Few emulated trials are lost by themselves, but more of them are beside other load."""

EXTRA = ("9p.ko", "veth.ko", "sch_netem.ko")
"""The modules in the package of the rarer modules."""


def _bindeb_pkg(kernel: Bootable, folder: Path) -> list[Path]:
    """Make one package, as `make bindeb-pkg` does."""
    release = kernel.build.release
    shutil.copytree(kernel.modules, folder / "image/lib/modules" / release, symlinks=True)
    (folder / "image/boot").mkdir()
    shutil.copy(kernel.vmlinuz, folder / "image/boot")
    return [make.package(folder / "image", release, packed="gzip")]


def _ubuntu(kernel: Bootable, folder: Path) -> list[Path]:
    """Make three packages, with modules compressed by zstd."""
    release = kernel.build.release
    inside = Path("lib/modules", release)
    (folder / "image/boot").mkdir(parents=True)
    shutil.copy(kernel.vmlinuz, folder / "image/boot")
    shutil.copytree(kernel.modules, folder / "modules" / inside, symlinks=True)
    modules = [str(path) for path in (folder / "modules").rglob("*.ko")]
    subprocess.run(["zstd", "-q", "-1", "--rm", *modules], check=True)
    for name in EXTRA:
        (path,) = (folder / "modules").rglob(f"{name}.zst")
        extra = folder / "extra" / path.relative_to(folder / "modules")
        extra.parent.mkdir(parents=True)
        path.rename(extra)
    parts = {"image": "image-unsigned", "modules": "modules", "extra": "modules-extra"}
    return [
        make.package(folder / part, release, name=f"linux-{name}-{release}", packed="zstd")
        for part, name in parts.items()
    ]


def _fedora(kernel: Bootable, folder: Path) -> list[Path]:
    """Make two RPMs; the image is under lib/modules, as in Fedora."""
    inside = Path("lib/modules", kernel.build.release)
    (folder / "core" / inside).mkdir(parents=True)
    shutil.copy(kernel.vmlinuz, folder / "core" / inside / "vmlinuz")
    for path in kernel.modules.glob("modules.*"):
        shutil.copy(path, folder / "core" / inside)
    (folder / "core" / inside / "build").symlink_to("/usr/src/kernels")
    shutil.copytree(kernel.modules / "kernel", folder / "modules" / inside / "kernel")
    return [
        make.rpm(folder / "core", "kernel-core"),
        make.rpm(folder / "modules", "kernel-modules-core"),
    ]


@pytest.mark.parametrize(
    "pack, stream, interruptible, outcome, deadline",
    [
        (_bindeb_pkg, "debian/6.1", "no", Outcome.ASLEEP, "10"),
        (_ubuntu, "debian/6.1", "no", Outcome.ASLEEP, "10"),
        (_fedora, "debian/6.12", "yes", Outcome.RETURNED, "300"),
    ],
)
def test_a_kernel_in_packages_of_another_distribution_boots_and_measures(
    kickbench: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pack: Callable[[Bootable, Path], list[Path]],
    stream: str,
    interruptible: str,
    outcome: Outcome,
    deadline: str,
) -> None:
    files = pack(bootable(Settings.from_environment(), stream), tmp_path / "packages")
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))
    added = kickbench("kernels", "add", *map(str, files))
    assert added.returncode == 0, added.stderr
    shutil.rmtree(tmp_path / "packages")
    assert added.stdout.endswith(
        f"; interruptible page fault of KVM, according to its BTF: {interruptible}\n"
    )
    release = added.stdout.split()[0]

    done = kickbench(
        "trial", "--kernel", release, "--scenario", "blackhole", "--request", "stop",
        "-n", str(TRIALS), "--deadline", deadline, "--json",
    )  # fmt: skip
    trials = json.loads(done.stdout)
    scored = [made for made in trials if made["outcome"] != Outcome.LOST]
    assert scored, done.stderr
    assert {made["outcome"] for made in scored} == {outcome}
    assert {made["kernel"]["release"] for made in scored} == {release}

    assert kickbench("kernels", "remove", release).returncode == 0
    assert not list((tmp_path / "cache" / "kernels").iterdir())
