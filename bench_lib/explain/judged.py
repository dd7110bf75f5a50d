# SPDX-License-Identifier: BSD-3-Clause
"""Judge whether a thread is stuck, and whether SIGKILL ends that."""

from __future__ import annotations

from bench_lib.explain.vmm import Seen
from bench_lib.record import Entry, WaitsFor
from bench_lib.threads import ASLEEP, IN_A_PAGE, SPINNING_SHARE, in_futex, polls

_UNKILLABLE = frozenset(
    {
        "shmem_swapin_folio",
        "nfs_vm_page_mkwrite",
        "folio_wait_writeback",
        "wait_on_page_writeback",
        "fuse_vma_close",
        "synchronize_srcu",
        "__synchronize_srcu",
        "vhost_vring_ioctl",
    }
)
"""Functions whose sleep not even SIGKILL ends, from the sources of Linux 6.1 to 7.3."""


def spins(thread: Seen) -> bool:
    """Whether a thread uses CPU time in the kernel although a signal or a tracer waits for it.

    On a busy host it may get little CPU time. Then it spins if it was seen in a page fault while it
    ran or waited for a CPU.
    """
    in_fault = thread.entry in IN_A_PAGE and thread.state not in ASLEEP
    share = thread.awake_share if in_fault else thread.cpu_share
    return thread.called and max(share, thread.cpu_share) > SPINNING_SHARE


def stuck(thread: Seen) -> bool:
    """Whether something outside of the thread keeps it from going on."""
    if spins(thread):
        return True
    if thread.state not in ASLEEP or polls(thread.frames) or in_futex(thread.frames):
        return False
    if thread.entry in {Entry.ASYNC_PF, Entry.HALTED}:
        # A signal ends both waits. So the thread is stuck only if a signal or a tracer waits for
        # it.
        return thread.still and thread.called
    waits = thread.waits_for is not WaitsFor.NOTHING
    return thread.still and (thread.state == "D" or waits)


def unkillable(thread: Seen) -> bool:
    """Whether not even SIGKILL ends the sleep of a thread in state D."""
    frames = {frame.split(".")[0] for frame in thread.frames}
    return bool(frames & _UNKILLABLE) or thread.waits_for is WaitsFor.FUSE
