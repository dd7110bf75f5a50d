# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's workers that fetch pages for vCPUs in asynchronous page faults.

KVM halts a vCPU in the same function whether the guest executed HLT or a page of it is missing
(kvm_vcpu_block()). In the second case, a kernel worker is in async_pf_execute().
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench_lib.record import WaitsFor
from bench_lib.threads import stack as stacks

PROC = Path("/proc")

KTHREADD = 2
"""The id of the parent of all kernel threads."""


def count(pid: int) -> int:
    """Return how many kernel workers may fetch pages for a process.

    The kernel does not show which process a worker serves. If the worker waits for a userfaultfd,
    only processes that have one come into question.
    """
    found = [stacks.waits_for(stack) for stack in _stacks()]
    others = sum(each is not WaitsFor.USERFAULT for each in found)
    return len(found) if len(found) > others and _has_userfaultfd(pid) else others


def _stacks() -> Iterator[Sequence[str]]:
    """Yield the stacks of the workers that are in async_pf_execute()."""
    for pid in _kernel_threads():
        folder = PROC / str(pid)
        try:
            # The kernel's threads have no exec_update_lock to wait for, and "I" is an idle worker.
            name, _, rest = (folder / "stat").read_text(errors="replace").rpartition(")")
            if "(kworker/" not in name or rest.split()[0] not in {"S", "D"}:
                continue
            frames = stacks.parse((folder / "stack").read_text())
        except OSError:
            continue
        if "async_pf_execute" in stacks.functions(frames):
            yield frames


def _kernel_threads() -> list[int]:
    """Return the ids of the kernel's threads; none in a PID namespace that does not show them."""
    try:
        text = (PROC / f"{KTHREADD}/task/{KTHREADD}/children").read_text()
    except OSError:
        # This kernel was built without CONFIG_PROC_CHILDREN. `comm` never blocks; see `look`.
        return sorted(
            int(each.name)
            for each in PROC.iterdir()
            if each.name.isdecimal() and _name(each).startswith("kworker/")
        )
    return [int(word) for word in text.split()]


def _name(folder: Path) -> str:
    try:
        return (folder / "comm").read_text(errors="replace")
    except OSError:
        return ""


def _has_userfaultfd(pid: int) -> bool:
    """Whether a process has a userfaultfd open, or its descriptors may not be seen."""
    try:
        links = list((PROC / f"{pid}/fd").iterdir())
    except OSError:
        return True
    for link in links:
        try:
            if str(link.readlink()) == "anon_inode:[userfaultfd]":
                return True
        except OSError:
            continue
    return False
