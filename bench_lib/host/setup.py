# SPDX-License-Identifier: BSD-3-Clause
"""Read from the kernel's files what affects the results of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from bench_lib import architecture
from bench_lib.errors import HugepagesMissing, MemoryMissing
from bench_lib.record import Setup

SYSTEM = Path("/sys/devices/system/cpu")
MODULES = Path("/sys/module")
HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
CLOCKSOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
TRANSPARENT = Path("/sys/kernel/mm/transparent_hugepage")
FUSE = Path("/proc/sys/fs/fuse")
VM = Path("/proc/sys/vm")
SWAPS = Path("/proc/swaps")

SPARE_MIB = 128
"""Memory that has to be free beside that of the guests, in MiB: for QEMU itself, and for kickbench.
"""


def of_this_machine() -> Setup:
    """The set-up of this machine; reading it takes a fraction of a millisecond."""
    return Setup(
        cpu=_after("/proc/cpuinfo", "model name"),
        cpus=os.cpu_count(),
        memory_mib=memory_mib("MemTotal"),
        kvm=kvm_module(),
        nested=nested(),
        governor=_governor(),
        turbo=turbo(),
        smt=_is_one(SYSTEM / "smt/active"),
        thp=_chosen(TRANSPARENT / "enabled"),
        huge_pages=huge_pages(),
        ptrace_scope=ptrace_scope(),
        unprivileged_userfaultfd=_is_one(VM / "unprivileged_userfaultfd"),
        mitigations=_mitigations(),
        clocksource=_text(CLOCKSOURCE),
        fuse_request_timeout=_number(FUSE / "default_request_timeout"),
        fuse_max_request_timeout=_number(FUSE / "max_request_timeout"),
        shmem_thp=_chosen(TRANSPARENT / "shmem_enabled"),
        swap=swap(),
        swappiness=_number(VM / "swappiness"),
        dirty_limit=_dirty_limit(),
        load=round(os.getloadavg()[0], 2),
    )


def kvm_module() -> str | None:
    """The loaded KVM module for this processor; None if there is none, or KVM is not a module."""
    return next((name for name in _kvm_modules() if (MODULES / name).exists()), None)


def nested() -> bool | None:
    """Whether guests may use KVM themselves; None if KVM has no such parameter."""
    values = [_text(MODULES / name / "parameters/nested") for name in _kvm_modules()]
    known = [value for value in values if value is not None]
    return any(value in {"1", "Y"} for value in known) if known else None


def _kvm_modules() -> list[str]:
    """The names of KVM's modules for this architecture; none if kickbench does not know it."""
    row = architecture.find()
    return [module.name for module in row.kvm_modules] if row else []


def ptrace_scope() -> int | None:
    """The value of kernel.yama.ptrace_scope; None if the kernel has no Yama."""
    return _number(Path("/proc/sys/kernel/yama/ptrace_scope"))


def turbo() -> bool | None:
    """Whether CPUs may exceed their nominal frequency; None if the kernel has no switch for it."""
    without = _is_one(SYSTEM / "intel_pstate/no_turbo")
    return not without if without is not None else _is_one(SYSTEM / "cpufreq/boost")


def memory_mib(name: str) -> int | None:
    """An entry of /proc/meminfo, in MiB; None if it is missing."""
    text = _after("/proc/meminfo", name)
    return int(text.split()[0]) // 1024 if text else None


def huge_pages() -> int | None:
    """The number of huge pages of the size that guests use.

    None if the kernel does not support this size, or kickbench has no guests for this machine.
    """
    row = architecture.find()
    return _number(_huge_pages() / "nr_hugepages") if row and row.trials else None


def free_huge_pages() -> int:
    """The number of these pages that are neither in use nor reserved."""
    if huge_pages() is None:
        return 0
    free, reserved = (_number(_huge_pages() / f"{which}_hugepages") for which in ("free", "resv"))
    return (free or 0) - (reserved or 0)


def check_huge_pages(needed: int) -> None:
    """Refuse a host that has too few free huge pages for guests.

    :raise HugepagesMissing: the sentence gives the command that makes enough of them free.
    """
    free = free_huge_pages()
    if free < needed:
        size_mib = architecture.for_trials().huge_page_mib
        pages = "1 free huge page" if needed == 1 else f"{needed} free huge pages"
        raise HugepagesMissing(
            f"The guests need {pages} of {size_mib} MiB, but this host has {free}; reserve more "
            f"with `{more_huge_pages(needed)}`."
        )


def check_memory(copies: int, each_mib: int) -> None:
    """Refuse a host that has too little free memory for the guests of a trial.

    If the kernel does not report how much memory is free, nothing is refused.

    :param copies: how many times the memory of a guest is in memory at the same time: once for each
        guest, and once for a core dump.
    :param each_mib: the size of the memory of each guest, in MiB.
    :raise MemoryMissing: the sentence has both sizes.
    """
    free_mib = memory_mib("MemAvailable")
    needed_mib = copies * each_mib + SPARE_MIB
    if free_mib is not None and free_mib < needed_mib:
        needed = "The guest needs" if copies == 1 else f"A trial needs {copies} times"
        raise MemoryMissing(
            f"{needed} {each_mib} MiB of memory, and {SPARE_MIB} MiB have to be free beside that, "
            f"but this host has {free_mib} MiB available; start smaller guests (--memory), or end "
            "other programs."
        )


def more_huge_pages(needed: int, tee: str = "tee") -> str:
    """The shell command that makes this many huge pages free.

    It never lowers the number of pages. It does not use the sysctl, which sets the pages of the
    default size.

    :param tee: the command that writes the file as root.
    """
    wanted = (huge_pages() or 0) - free_huge_pages() + needed
    return f"echo {wanted} | {tee} {_huge_pages() / 'nr_hugepages'}"


def _huge_pages() -> Path:
    """The kernel's folder for huge pages of the size that guests use.

    :raise UnknownArchitecture: kickbench has no guests for this machine.
    """
    return HUGE_PAGES / f"hugepages-{architecture.for_trials().huge_page_mib * 1024}kB"


def swap() -> tuple[str, ...] | None:
    """The devices and files that the kernel swaps to, each with its type: /dev/dm-0 (partition).

    None if the kernel cannot swap.
    """
    text = _text(SWAPS)
    if text is None:
        return None
    # Spaces in names are written as octal numbers, and the first line has the names of the columns.
    rows = [line.split() for line in text.splitlines()[1:]]
    return tuple(f"{name} ({kind})" for name, kind, *_ in rows)


def _dirty_limit() -> str | None:
    """The limit that is in force. The kernel sets either of the two to 0 if the other is set."""
    if number := _number(VM / "dirty_bytes"):
        return f"{number} bytes"
    ratio = _number(VM / "dirty_ratio")
    return None if ratio is None else f"{ratio}%"


def _governor() -> str | None:
    files = SYSTEM.glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ",".join(sorted({text for each in files if (text := _text(each))})) or None


def _mitigations() -> dict[str, str]:
    """The mitigation of each vulnerability that this processor has, up to the first `;`."""
    texts = {each.name: _text(each) for each in sorted((SYSTEM / "vulnerabilities").glob("*"))}
    return {
        name: text.partition(";")[0]
        for name, text in texts.items()
        if text and not text.startswith("Not affected")
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdecimal() else None


def _is_one(path: Path) -> bool | None:
    text = _text(path)
    return None if text is None else text == "1"


def _chosen(path: Path) -> str | None:
    """The word in brackets of a file that lists alternatives."""
    text = _text(path)
    return text.partition("[")[2].partition("]")[0] or None if text else None


def _after(path: str, name: str) -> str | None:
    """The value of the first line `name: value` of a file."""
    for line in (_text(Path(path)) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
