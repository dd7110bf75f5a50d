# SPDX-License-Identifier: BSD-3-Clause
"""The tool that unpacks another suite's QEMU, with packages made of this host's QEMU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench_lib import architecture
from bench_lib.errors import UsageError
from bench_lib.settings import CHECKOUT
from tests import archive as made
from tests.archive import Archive, Host, signer
from tests.conftest import HANG_S
from tests.host.conftest import GUEST, Command
from tests.host.test_explain import Qemu

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")

PROGRAM = architecture.for_trials().qemu

# With the tests' key in place of Debian's.
TOOL = f"""
import runpy, sys
from pathlib import Path
from bench_lib.kernel import mirror
mirror.KEYS = Path(sys.argv.pop(1))
runpy.run_path({str(CHECKOUT / "tools" / "unpack_qemu.py")!r}, run_name="__main__")
"""

Unpack = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def unpack(tmp_path: Path) -> Iterator[Unpack]:
    """Runs the tool on a host whose archive has QEMU and its libraries in two packages."""
    program, libraries = tmp_path / "program", tmp_path / "libraries"
    lib = Path("usr/lib/x86_64-linux-gnu")
    _copy(Path(str(shutil.which(PROGRAM))), program / "usr" / "bin")
    _copy(Path("/usr/share/qemu/kvmvapic.bin"), program / "usr" / "share" / "qemu")
    _copy("/" / lib / "qemu" / "accel-tcg-x86_64.so", program / lib / "qemu")
    needed = subprocess.run(
        ["ldd", program / "usr" / "bin" / PROGRAM], check=True, capture_output=True, text=True
    ).stdout
    for word in needed.split():
        if word.startswith("/"):
            _copy(Path(word), libraries / lib)
    with signer() as key:
        archive = Archive(tmp_path / "archive", key)
        packages = [
            made.package(tmp_path, "libraries", "1", root=libraries),
            made.package(tmp_path, "qemu-system-x86", "1", "libraries", program),
        ]
        archive.suite("stable", "trixie", packages)
        host = Host(tmp_path / "host", key.keyring)
        host.gets_debian_from(f"file:{archive.folder}", security=False)

        def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", TOOL, key.keyring, *arguments],
                capture_output=True,
                text=True,
                timeout=HANG_S,
                check=False,
                env={
                    **host.environment,
                    "KICKBENCH_CACHE": str(tmp_path / "cache"),
                    "PYTHONPATH": str(CHECKOUT),
                },
            )

        yield run


def _copy(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder)


def test_an_unpacked_qemu_runs_trials_and_is_found_by_explain(
    unpack: Unpack, kickbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "another"
    done = unpack("stable", folder)
    assert done.returncode == 0, done.stderr
    qemu = Path(done.stdout.strip())
    assert qemu == folder / PROGRAM
    guest = Qemu("another", tmp_path / "memory", str(qemu))
    try:
        done = kickbench("explain", "another")
        assert f"process {guest.process.pid} ({GUEST}), guest another" in done.stdout
    finally:
        guest.end()
    monkeypatch.setenv("KICKBENCH_QEMU", str(qemu))
    done = kickbench("trial", "--scenario", "blackhole", "--request", "gdb-attach", "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["outcome"] == "returned"


def test_a_folder_that_exists_is_left_alone(unpack: Unpack, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    done = unpack("stable", folder)
    assert done.returncode == UsageError.exit_status
    assert "exists" in done.stderr
    assert not list(folder.iterdir())


def test_an_unknown_suite_is_refused_with_the_known_ones(unpack: Unpack, tmp_path: Path) -> None:
    done = unpack("sarge", tmp_path / "another")
    assert done.returncode == UsageError.exit_status
    assert "suites that can be: trixie." in done.stderr
    assert not (tmp_path / "another").exists()
