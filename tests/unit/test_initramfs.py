# SPDX-License-Identifier: BSD-3-Clause
"""The kernel and initramfs of a lab, made from builds that only look like kernels."""

from __future__ import annotations

import dataclasses
import gzip
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench_lib.errors import KernelUnusable, LabUnavailable, ProgramMissing
from bench_lib.kernel import vmlinux
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.store import Bootable
from bench_lib.lab import initramfs, qemu
from bench_lib.lab.initramfs import Modules
from tests import make

NEEDS = {
    "kernel/fs/9p/9p.ko": ["kernel/net/9p/9pnet.ko", "kernel/fs/netfs/netfs.ko"],
    "kernel/net/9p/9pnet.ko": [],
    "kernel/fs/netfs/netfs.ko": [],
    "kernel/net/9p/9pnet_virtio.ko": ["kernel/net/9p/9pnet.ko"],
    "kernel/fs/overlayfs/overlay.ko.xz": [],
    "kernel/drivers/net/veth.ko": [],
    "kernel/drivers/virtio/virtio_pci.ko": [],
    "kernel/arch/x86/kvm/kvm.ko": [],
    "kernel/arch/x86/kvm/kvm-amd.ko": ["kernel/arch/x86/kvm/kvm.ko"],
    "kernel/arch/x86/kvm/kvm-intel.ko": ["kernel/arch/x86/kvm/kvm.ko"],
}
BUILTIN = "kernel/drivers/char/virtio_console.ko\n"


@pytest.fixture
def kernel(tmp_path: Path) -> Bootable:
    """A build with the modules of NEEDS, each of which contains its own path."""
    build = Bootable(describe(make.KERNEL), "somewhere", tmp_path / "build")
    for path in NEEDS:
        file = build.modules / path
        file.parent.mkdir(parents=True, exist_ok=True)
        data = path.encode()
        file.write_bytes(lzma.compress(data) if file.suffix == ".xz" else data)
    lines = [f"{path}: {' '.join(needs)}\n" for path, needs in NEEDS.items()]
    (build.modules / "modules.dep").write_text("".join(lines))
    (build.modules / "modules.builtin").write_text(BUILTIN)
    make.vmlinuz(build.vmlinuz)
    return build


def _order(kernel: Bootable, *names: str, optional: bool = False) -> list[str]:
    found = Modules(kernel.modules).in_order(names, optional=optional)
    return [path.name for path in found]


def test_a_module_comes_once_and_after_the_modules_that_it_needs(kernel: Bootable) -> None:
    assert _order(kernel, "9p", "9pnet_virtio") == [
        "netfs.ko",
        "9pnet.ko",
        "9p.ko",
        "9pnet_virtio.ko",
    ]


def test_a_driver_that_is_built_in_is_not_loaded(kernel: Bootable) -> None:
    assert _order(kernel, "virtio_console", "veth") == ["veth.ko"]


def test_a_missing_module_is_an_error_or_left_out(kernel: Bootable) -> None:
    with pytest.raises(KernelUnusable, match="has no module sch_netem"):
        _order(kernel, "veth", "sch_netem")
    assert _order(kernel, "veth", "sch_netem", optional=True) == ["veth.ko"]


def test_the_initramfs_holds_modules_unpacked_and_in_order(
    kernel: Bootable, tmp_path: Path
) -> None:
    made = initramfs.files(kernel, unpacked=False)
    assert made.kernel == kernel.vmlinuz
    root = tmp_path / "root"
    root.mkdir()
    with made.initramfs.open("rb") as packed:
        subprocess.run(
            [initramfs.busybox(), "cpio", "-i", "-d"],
            cwd=root,
            stdin=packed,
            check=True,
            capture_output=True,
        )
    first = (root / "modules" / "first").read_text().split()
    assert first == [
        "virtio_pci.ko",
        "9pnet.ko",
        "9pnet_virtio.ko",
        "netfs.ko",
        "9p.ko",
        "overlay.ko",
    ]
    then = (root / "modules" / "then").read_text().split()
    assert then == ["veth.ko", "kvm.ko", "kvm-amd.ko", "kvm-intel.ko"]
    overlay = (root / "modules" / "overlay.ko").read_text()
    assert overlay == "kernel/fs/overlayfs/overlay.ko.xz"
    assert (root / "init").stat().st_mode & 0o111
    assert (root / "bin" / "busybox").read_bytes() == initramfs.busybox().read_bytes()


def test_an_initramfs_is_made_once_until_its_contents_change(
    kernel: Bootable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = initramfs.files(kernel, unpacked=False).initramfs
    before = made.stat()
    assert initramfs.files(kernel, unpacked=False).initramfs == made
    assert made.stat().st_mtime_ns == before.st_mtime_ns
    init = tmp_path / "init.sh"
    init.write_text("#!/bin/busybox sh\n")
    monkeypatch.setattr(initramfs, "_INIT", init)
    assert initramfs.files(kernel, unpacked=False).initramfs != made


def test_an_initramfs_that_cannot_be_made_leaves_nothing(
    kernel: Bootable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initramfs, "FIRST", ("virtio_pci", "no-such-module"))
    with pytest.raises(KernelUnusable, match="has no module no-such-module"):
        initramfs.files(kernel, unpacked=False)
    assert not list((kernel.folder / "lab").iterdir())


def test_what_a_killed_process_left_is_removed_when_the_next_is_made(
    kernel: Bootable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as large as a kernel."""

    def killed(*_: object) -> bool:
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(vmlinux, "extract", killed)
        initramfs.files(kernel, unpacked=True)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [*kernel.folder.parent.rglob(".new-*")]
    _image(kernel.vmlinuz, gzip.compress(_elf((b"Xen", 18))))
    initramfs.files(kernel, unpacked=True)
    assert not [*kernel.folder.parent.rglob(".new-*")]


@pytest.mark.parametrize("what", ["nothing", "a script", "a program with libraries"])
def test_a_busybox_that_is_not_static_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    program = tmp_path / "busybox"
    match what:
        case "a script":
            program.write_text("#!/bin/sh\n")
        case "a program with libraries":
            program.write_bytes(Path("/bin/sh").resolve().read_bytes())
    if program.exists():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing, match="needs a statically linked busybox"):
        initramfs.busybox()


def _elf(*notes: tuple[bytes, int]) -> bytes:
    """A 64-bit ELF file that has only notes, given by owner and type."""
    body = b""
    for owner, kind in notes:
        name = owner + b"\0"
        body += struct.pack("<III", len(name), 4, kind) + name.ljust((len(name) + 3) & ~3, b"\0")
        body += b"\1\0\0\0"
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1".ljust(16, b"\0"), 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 4, 4, 64 + 56, 0, 0, len(body), len(body), 4)
    return header + segment + body


def _damaged() -> bytes:
    """An ELF file whose notes are far behind its end."""
    kernel = bytearray(_elf((b"Xen", 18)))
    struct.pack_into("<Q", kernel, 64 + 8, 1 << 63)
    return bytes(kernel)


def _image(path: Path, payload: bytes) -> Path:
    """Write an image with a compressed kernel behind one setup sector."""
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    path.write_bytes(bytes(setup) + bytes(16) + payload + b"what follows")
    return path


def _with_size(packed: bytes) -> bytes:
    return packed + struct.pack("<I", 1234)


@pytest.mark.parametrize(
    "pack", [gzip.compress, lambda data: _with_size(lzma.compress(data))], ids=["gzip", "xz"]
)
def test_a_kernel_is_extracted_from_its_image(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    kernel = _elf((b"GNU", 3), (b"Xen", 18))
    to = tmp_path / "vmlinux"
    assert vmlinux.extract(_image(tmp_path / "vmlinuz", pack(kernel)), to)
    assert to.read_bytes() == kernel


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(_with_size(lzma.compress(_elf((b"Xen", 6)))), id="no PVH"),
        pytest.param(_with_size(lzma.compress(b"no ELF file")), id="no kernel"),
        pytest.param(_with_size(lzma.compress(_damaged())), id="a damaged kernel"),
        pytest.param(b"\x02\x21\x4c\x18 something else", id="an unknown packing"),
    ],
)
def test_a_kernel_that_cannot_start_without_its_image_is_booted_from_it(
    kernel: Bootable, payload: bytes
) -> None:
    _image(kernel.vmlinuz, payload)
    for _ in range(2):  # the second call uses the result of the first
        assert initramfs.files(kernel, unpacked=True).kernel == kernel.vmlinuz
    assert not (kernel.folder / "lab" / "vmlinux").exists()


def test_a_kernel_that_can_start_without_its_image_is_unpacked_once(kernel: Bootable) -> None:
    _image(kernel.vmlinuz, gzip.compress(_elf((b"Xen", 18))))
    made = initramfs.files(kernel, unpacked=True).kernel
    assert made == kernel.folder / "lab" / "vmlinux"
    kernel.vmlinuz.write_bytes(b"")  # not read again
    assert initramfs.files(kernel, unpacked=True).kernel == made


def test_a_busybox_that_hangs_is_reported(
    kernel: Bootable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_text("#!/bin/sh\nexec sleep 1000\n")
    busybox.chmod(0o755)
    monkeypatch.setattr(initramfs, "busybox", lambda: busybox)
    monkeypatch.setattr(initramfs, "CPIO_LIMIT_S", 0.01)
    with pytest.raises(LabUnavailable, match="did not pack the lab's initramfs within"):
        initramfs.files(kernel, unpacked=False)
    assert not list((kernel.folder / "lab").iterdir())


def test_the_lab_finds_modules_if_the_cache_is_a_symbolic_link(
    kernel: Bootable, tmp_path: Path
) -> None:
    """In the initramfs, an absolute link has another target."""
    link = tmp_path / "link"
    link.symlink_to(kernel.folder)
    through = dataclasses.replace(kernel, folder=link)
    (modules,) = [
        each.partition("=")[2]
        for each in qemu.parameters(through, emulated=True)
        if each.startswith("KICKBENCH_MODULES=")
    ]
    assert modules == str(kernel.modules)


def test_a_path_that_is_too_long_for_the_kernels_command_line_is_refused(
    kernel: Bootable, tmp_path: Path
) -> None:
    folder = tmp_path / ("ü" * 100) / ("ü" * 100)
    long = dataclasses.replace(kernel, folder=folder)
    with pytest.raises(LabUnavailable, match="too long for the command line of a lab's kernel"):
        qemu.parameters(long, emulated=True)
