# SPDX-License-Identifier: BSD-3-Clause
"""Linux guests under the booted kernel. Not every KVM can run them, so the tests take both ways."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from bench_lib.settings import Settings
from tests.host.conftest import Command

NOT_BOOTED, MISSING = 37, 48
"""The exit statuses of a guest that did not boot, and of a kernel of guests that is missing."""

# The tests use the cache of the user who runs them, so that the guests' kernel is fetched once.
KERNELS = Settings.from_environment().cache / "kernels"

TRIAL = (
    "trial", "--image", "linux", "--vcpus", "2", "--scenario", "blackhole", "--request", "stop",
    "--json",
)  # fmt: skip


@pytest.fixture
def cache(kickbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has the user's kernels, and no states."""
    folder = tmp_path / "cache"
    folder.mkdir()
    KERNELS.mkdir(parents=True, exist_ok=True)
    (folder / "kernels").symlink_to(KERNELS)
    monkeypatch.setenv("KICKBENCH_CACHE", str(folder))
    if not [*KERNELS.glob("6.12.*")]:
        fetched = kickbench("kernels", "fetch", "debian/6.12")
        assert fetched.returncode == 0, fetched.stderr
    return folder


@pytest.mark.parametrize("more", [(), ("--boot",)], ids=["restored", "booted"])
def test_linux_is_measured_or_one_sentence_says_why_not(
    kickbench: Command, cache: Path, more: tuple[str, ...]
) -> None:
    done = kickbench(*TRIAL, *more)
    states = [*cache.glob("guests/*.state")]
    if done.returncode == NOT_BOOTED:
        assert done.stdout == ""
        said = done.stderr.splitlines()[-1]
        assert re.fullmatch(
            r"kickbench: The Linux guest with kernel 6\.12\.\S+ did not boot: .+\. "
            r"If KVM on this host cannot run Linux, a lab can: use --kernel\.",
            said,
        ), said
        assert not states
        assert not Path(".asv/records.jsonl").exists()
        return
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)
    assert made["guest_start"] == ("booted" if more else "restored")
    assert made["guest_kernel"]["release"].startswith("6.12.")
    assert len(states) == (0 if more else 1)
    assert not [*cache.glob("guests/.new-*")]


def test_a_kernel_that_is_none_is_refused_with_qemus_reason(
    kickbench: Command, cache: Path, tmp_path: Path
) -> None:
    (build,) = sorted(KERNELS.glob("6.12.*"))[:1]
    scratch = tmp_path / "build"
    shutil.copytree(build, scratch, ignore=shutil.ignore_patterns("lib", "lab"))
    (vmlinuz,) = (scratch / "boot").glob("vmlinuz-*")
    vmlinuz.write_bytes(b"This is not a kernel." * 1000)
    # The usual CPU of Linux guests ends QEMU before it reads the kernel where KVM lacks an MSR.
    env = {**os.environ, "KICKBENCH_GUEST_KERNEL": str(scratch)}
    done = kickbench(*TRIAL, "--cpu", "qemu64", env=env)
    assert done.returncode == NOT_BOOTED
    assert re.search(r"did not boot: QEMU of \S+ exited with status 1: .*kernel", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_folder_that_has_no_kernel_is_refused(
    kickbench: Command, cache: Path, tmp_path: Path
) -> None:
    done = kickbench(*TRIAL, env={**os.environ, "KICKBENCH_GUEST_KERNEL": str(tmp_path)})
    assert done.returncode == MISSING
    assert done.stderr == (
        f"kickbench: KICKBENCH_GUEST_KERNEL is {tmp_path}, which is not the folder of a kernel "
        "build: it has no build.json; set it to such a folder in the cache, or to the name of a "
        "kernel.\n"
    )


def test_clean_deletes_the_incomplete_states_of_killed_runs(
    kickbench: Command, cache: Path
) -> None:
    for name in (".new-1", "whole.state", "whole.json"):
        (cache / "guests" / name).parent.mkdir(exist_ok=True)
        (cache / "guests" / name).touch()
    assert kickbench("clean", "--dry-run").returncode == 0
    assert (cache / "guests" / ".new-1").exists()
    assert kickbench("clean").returncode == 0
    assert sorted(each.name for each in (cache / "guests").iterdir()) == [
        "whole.json",
        "whole.state",
    ]
