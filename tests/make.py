# SPDX-License-Identifier: BSD-3-Clause
"""Records, and files that look like kernels, for tests."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from bench_lib.kernel.assembly import NEEDED
from bench_lib.record import (
    Entry,
    Evidence,
    Host,
    Kernel,
    Outcome,
    Record,
    RequestName,
    Role,
    ScenarioName,
    Shape,
    Stage,
    Thread,
    WaitsFor,
)

KERNEL = Kernel("6.1.0-56-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.180-1 (2026-10-02)")
STUCK = ("handle_userfault", "__get_user_pages", "hva_to_pfn")
MS = 1_000_000


def thread(
    state: str,
    wchan: str,
    stack: tuple[str, ...],
    entry: Entry,
    waits_for: WaitsFor,
    cpu_ns: int = 0,
) -> Thread:
    """A vCPU's thread."""
    name = "CPU 0/KVM"
    return Thread(11, Role.VCPU, 0, name, state, wchan, stack, entry, waits_for, cpu_ns=cpu_ns)


def record(
    outcome: Outcome = Outcome.RETURNED,
    latency_ms: float | None = 1.0,
    *,
    scenario: ScenarioName = ScenarioName.BLACKHOLE,
    kernel: Kernel = KERNEL,
    seq: int = 1,
    reason: str | None = None,
) -> Record:
    """A plausible record, which has a latency only if its outcome can have one."""
    has_latency = outcome in {Outcome.RETURNED, Outcome.REFUSED}
    before = thread("S", "handle_userfault", STUCK, Entry.GUP, WaitsFor.USERFAULT)
    after = thread("S", "futex_wait_queue", (), Entry.NONE, WaitsFor.NOTHING, cpu_ns=1000)
    return Record(
        run_id="0123456789ab",
        seq=seq,
        request=RequestName.STOP,
        scenario=scenario,
        shape=Shape(),
        outcome=outcome,
        reason=reason,
        latency_ns=round(latency_ms * MS) if has_latency and latency_ms is not None else None,
        deadline_ns=5_000 * MS,
        kernel=kernel,
        boot_id="00000000-0000-0000-0000-000000000000",
        host=Host("native", "kvm", "somewhere"),
        qemu="7.2.22",
        outage="netem",
        evidence=Evidence((before,), (after,)),
        stages=(Stage("start", 0, 80 * MS), Stage("release", 300 * MS, 350 * MS)),
        started="2026-11-22T20:00:00.000+00:00",
    )


RELEASE = "6.1.0-41-amd64"
BANNER = f"{RELEASE} (who@where) #1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)"


def vmlinuz(path: Path, banner: str = BANNER) -> Path:
    """Write an x86 kernel image that has no more than its version."""
    setup = bytearray(0x1000)
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x20E, 0x300)
    setup[0x500 : 0x500 + len(banner)] = banner.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(setup)
    return path


def modules(folder: Path, names: Iterable[str] = NEEDED) -> Path:
    """Make a folder lib/modules/RELEASE with empty modules of these names."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name.replace('_', '-')}.ko").touch()
    (folder / "modules.order").touch()
    (folder / "modules.builtin").write_text("kernel/drivers/char/virtio_console.ko\n")
    return folder


def package(
    folder: Path, release: str = RELEASE, *, name: str = "", depends: str = "", packed: str = "xz"
) -> Path:
    """Make a Debian package of the files in a folder, beside that folder.

    :param name: the package's name; linux-image-RELEASE by default.
    :param packed: the compression, as dpkg-deb names it.
    """
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / "DEBIAN" / "control").write_text(
        f"Package: {name or f'linux-image-{release}'}\nVersion: 1\nArchitecture: amd64\n"
        "Maintainer: nobody\nDescription: a kernel\n" + (f"Depends: {depends}\n" if depends else "")
    )
    file = folder.with_name(f"{name or folder.name}.deb")
    subprocess.run(
        ["dpkg-deb", f"-Z{packed}", "-z1", "--root-owner-group", "--build", folder, file],
        check=True,
        capture_output=True,
    )
    return file


def rpm(folder: Path, name: str, payload: str = "w3.zstdio") -> Path:
    """Make an RPM of the files in a folder, beside that folder.

    :param payload: the compression, as rpmbuild names it.
    """
    spec = folder.with_name(f"{name}.spec")
    files = "".join(
        f'"/{path.relative_to(folder)}"\n' for path in folder.rglob("*") if not path.is_dir()
    )
    spec.write_text(
        f"Name: {name}\nVersion: 1\nRelease: 1\nSummary: a kernel\nLicense: none\n"
        f"%global __os_install_post %{{nil}}\n%description\n"
        f"%install\ncp -a {folder}/. %{{buildroot}}/\n%files\n{files}"
    )
    defines = {
        "_topdir": folder.with_name(f"{name}.build"),
        "_binary_payload": payload,
        "_build_id_links": "none",
        "__brp_strip": "%{nil}",
        "debug_package": "%{nil}",
        "__spec_install_pre": "%{___build_pre}",
    }
    options = [word for key, value in defines.items() for word in ("--define", f"{key} {value}")]
    subprocess.run(
        ["rpmbuild", "-bb", "--nodeps", "--noclean", "--target", "x86_64", *options, spec],
        check=True,
        capture_output=True,
    )
    (file,) = folder.with_name(f"{name}.build").glob("RPMS/x86_64/*.rpm")
    return file
