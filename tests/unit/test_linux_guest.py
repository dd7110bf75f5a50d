# SPDX-License-Identifier: BSD-3-Clause
"""What a Linux guest boots: its program, its initramfs and the kernel's command line."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import libarchive
import msgspec
import pytest

from bench_lib.errors import ImageError
from bench_lib.guest import initramfs
from bench_lib.guest.workloads import linux
from bench_lib.guest.workloads.description import shape_of
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.store import Bootable
from tests import make
from tests.conftest import CHECKOUT

IMAGES = CHECKOUT / "guest-images"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A copy of the guest's program and its manifest, to be changed."""
    shutil.copytree(IMAGES / "linux", tmp_path / "images" / "linux")
    return tmp_path / "images"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 4096])
def test_another_reader_finds_the_program_and_the_console_in_the_initramfs(size: int) -> None:
    """The contents are aligned to 4 bytes, whatever the size of the program."""
    program = bytes(number % 251 for number in range(size))
    with libarchive.memory_reader(initramfs.packed(program)) as archive:
        found = {
            each.pathname: (each.mode, each.rdevmajor, each.rdevminor, b"".join(each.get_blocks()))
            for each in archive
        }
    assert found == {
        "dev": (0o040755, 0, 0, b""),
        "dev/console": (0o020600, 5, 1, b""),
        "init": (0o100755, 0, 0, program),
    }


def test_nothing_in_the_initramfs_depends_on_the_host() -> None:
    """A state in the cache is used only with the same guest."""
    with libarchive.memory_reader(initramfs.packed(b"a program")) as archive:
        assert {(each.mtime, each.uid, each.gid) for each in archive} == {(0, 0, 0)}


def test_the_committed_program_is_the_one_in_the_manifest() -> None:
    program = (IMAGES / "linux" / "init").read_bytes()
    assert linux.load(IMAGES) == program
    assert linux.manifest(IMAGES).sha256 == hashlib.sha256(program).hexdigest()


def test_the_source_builds_the_committed_program(tmp_path: Path) -> None:
    """Another compiler builds another program, so elsewhere it only has to be a static one."""
    built = tmp_path / "linux" / "init"
    make_it = ["make", "-s", "-C", str(IMAGES), f"OUT={tmp_path}", str(built)]
    subprocess.run(make_it, check=True, capture_output=True)
    version = subprocess.run(["gcc", "--version"], check=True, capture_output=True, text=True)
    if version.stdout.splitlines()[0] == linux.manifest(IMAGES).compiler:
        assert built.read_bytes() == linux.load(IMAGES)
    described = subprocess.run(
        ["readelf", "--file-header", "--program-headers", built],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "EXEC (Executable file)" in described
    assert "INTERP" not in described


def test_a_program_that_was_changed_is_refused(images: Path) -> None:
    with (images / "linux" / "init").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ImageError, match=r"not the one in the manifest .* restore it"):
        linux.load(images)


def test_a_missing_program_is_refused(images: Path) -> None:
    (images / "linux" / "init").unlink()
    with pytest.raises(ImageError, match="linux/init cannot be read: No such file"):
        linux.load(images)


@pytest.mark.parametrize("text", [None, "", "[]", '{"file": "init"}'])
def test_a_manifest_that_is_missing_or_damaged_is_refused(images: Path, text: str | None) -> None:
    path = images / "linux" / "manifest.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ImageError, match=r"manifest of the Linux guest .*manifest\.json cannot be"):
        linux.load(images)


@pytest.mark.parametrize(
    ("memory_mib", "span_mib"), [(128, 16), (130, 18), (256, 128), (1024, 800), (8192, 7072)]
)
def test_the_program_leaves_memory_to_the_guests_kernel(memory_mib: int, span_mib: int) -> None:
    assert linux.span_mib(memory_mib) == span_mib


def test_the_guests_kernel_gets_its_command_line_and_initramfs(tmp_path: Path) -> None:
    kernel = Bootable(describe(make.KERNEL), "somewhere", tmp_path / "build")
    workload = linux.Linux(b"a program", kernel, tmp_path)
    shape = shape_of("linux", vcpus=2, memory_mib=256, work="busy")
    arguments = workload.arguments(shape)
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given == {
        "-kernel": str(tmp_path / "build" / "boot" / f"vmlinuz-{make.KERNEL.release}"),
        "-initrd": str(tmp_path / "linux-guest.cpio"),
        "-append": "console=ttyS1 quiet panic=-1 nowatchdog -- busy 128",
    }
    assert Path(given["-initrd"]).read_bytes() == initramfs.packed(b"a program")
    assert workload.kernel == make.KERNEL
    assert workload.sha256 == hashlib.sha256(b"a program").hexdigest()


def test_the_manifest_names_files_that_exist() -> None:
    entry = msgspec.json.decode((IMAGES / "linux" / "manifest.json").read_bytes())
    assert {entry["file"], entry["source"]} <= {each.name for each in (IMAGES / "linux").iterdir()}
