# SPDX-License-Identifier: BSD-3-Clause
"""Proofs of what the vCPUs of a guest do just before the request."""

from __future__ import annotations

from collections.abc import Sequence

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, GuestDied, NotStuck
from bench_lib.record import Entry, WaitsFor
from bench_lib.threads import ThreadState

QUIET_S = 0.005
"""Seconds between the two equal looks that prove a process quiet."""


def look(pid: int, tids: Sequence[int]) -> list[ThreadState]:
    """Look once at each vCPU thread.

    :raise GuestDied: a vCPU thread has ended.
    """
    try:
        return threads.told_apart([threads.observe(pid, tid) for tid in tids])
    except ProcessLookupError:
        raise GuestDied(f"A vCPU thread of process {pid} has ended.") from None


def look_at_all(pid: int, proved: Sequence[ThreadState]) -> list[ThreadState]:
    """Look at every thread of QEMU, but keep the looks in `proved`.

    :raise GuestDied: QEMU has ended.
    """
    known = {each.tid: each for each in proved}
    try:
        return [known.get(each.tid, each) for each in threads.observe_all(pid)]
    except ProcessLookupError:
        raise GuestDied(f"Process {pid} has ended.") from None


def is_stuck(seen: ThreadState, path: Entry | None) -> bool:
    """Whether a vCPU thread sleeps while it waits for a page, or for leave to have one more.

    :param path: the required entry into the wait; None for any.
    """
    if seen.state not in threads.ASLEEP:
        return False
    if path is not None:
        return seen.entry is path
    if seen.waits_for is WaitsFor.MEMORY_LIMIT:
        return True
    if seen.entry in {Entry.NONE, Entry.SYSCALL, Entry.HALTED}:
        return False
    return seen.entry is Entry.ASYNC_PF or seen.waits_for is not WaitsFor.NOTHING


def is_held_up(vcpus: Sequence[ThreadState], main: ThreadState) -> bool:
    """Whether the main loop waits for a stuck vCPU, and all other vCPUs wait for the main loop."""
    waits = [each for each in vcpus if not is_stuck(each, None)]
    return len(waits) < len(vcpus) and all(
        each.state in threads.ASLEEP and threads.in_futex(each.stack) for each in [*waits, main]
    )


def is_halted(seen: ThreadState) -> bool:
    """Whether a vCPU thread sleeps because its guest is idle."""
    return seen.state in threads.ASLEEP and seen.entry is Entry.HALTED


async def stuck(
    pid: int,
    tids: Sequence[int],
    path: Entry | None,
    deadline: Deadline,
    apart_s: float,
    *,
    halts: bool = False,
) -> list[ThreadState]:
    """Wait until two looks in a row show every vCPU thread stuck in the same place.

    Without a required path, one stuck vCPU is enough if QEMU's main loop waits for it. QEMU loads
    the vCPUs one after the other, so the vCPUs that follow can neither run nor get stuck.

    :param path: the required entry into the wait; None if that depends on the kernel.
    :param apart_s: seconds between the two looks.
    :param halts: whether the guest halts vCPUs that have nothing to do. Then one stuck vCPU is
        enough if all others are stuck or halted.
    :return: the second look at each vCPU.
    :raise NotStuck: this was not seen in time; the message has what was seen instead.
    :raise GuestDied: a vCPU thread has ended.
    """
    earlier: list[ThreadState] = []
    looks: list[ThreadState] = []
    everyone = [*tids, pid] if path is None else list(tids)

    def twice_the_same() -> list[ThreadState] | None:
        nonlocal earlier, looks
        earlier, looks = looks, look(pid, everyone)
        vcpus = looks[: len(tids)]
        agree = any(is_stuck(now, path) for now in vcpus) and all(
            (is_stuck(now, path) or (halts and is_halted(now))) and now.same_sleep(then)
            for now, then in zip(vcpus, earlier, strict=False)
        )
        held_up = path is None and looks == earlier and is_held_up(vcpus, looks[-1])
        return vcpus if earlier and (agree or held_up) else None

    def differs(number: int, now: ThreadState) -> str:
        if earlier and is_stuck(now, path) and not now.same_sleep(earlier[number]):
            return f", but in another sleep than {apart_s:g} s before"
        return ""

    try:
        return await deadline.poll(twice_the_same, "Every vCPU stuck", interval_s=apart_s)
    except DeadlinePassed:
        seen = "; ".join(
            f"vCPU {number} in state {now.state}, {now.wchan}, entry {now.entry}, waits for "
            f"{now.waits_for}{differs(number, now)}"
            for number, now in enumerate(looks[: len(tids)])
        )
        where = "" if path is None else f" on path {path}"
        raise NotStuck(
            f"Not every vCPU was seen stuck{where} before the deadline: {seen or 'none'}."
        ) from None


async def alive(
    pid: int, tids: Sequence[int], deadline: Deadline, *, halts: bool = False
) -> list[ThreadState]:
    """Wait until every vCPU thread has run its guest, even if it got stuck then.

    :param halts: whether the guest halts vCPUs that have nothing to do. Such a vCPU need not run.
    :return: the last look at each vCPU.
    :raise NotStuck: a vCPU has not run in time; the message has what was seen.
    :raise GuestDied: a vCPU thread has ended.
    """
    first = look(pid, tids)
    looks = first

    def all_have_run() -> list[ThreadState] | None:
        nonlocal looks
        looks = look(pid, tids)
        ran = all(
            # The kernel accounts CPU time at its ticks, and when a thread goes to sleep.
            now.cpu_ns > then.cpu_ns or is_stuck(now, None) or (halts and is_halted(now))
            for now, then in zip(looks, first, strict=True)
        )
        return looks if ran else None

    try:
        return await deadline.poll(all_have_run, "Every vCPU alive")
    except DeadlinePassed:
        seen = "; ".join(f"{now.state} {now.wchan}" for now in looks)
        raise NotStuck(f"Not every vCPU was seen to run its guest: {seen}.") from None


async def in_guest(pid: int, tids: Sequence[int], deadline: Deadline) -> None:
    """Wait until every vCPU has entered its guest, where it touched a page or halted.

    Before that, KVM touches the pages that it shares with the guest. So those have arrived.

    :raise DeadlinePassed: a vCPU was not seen to enter its guest in time.
    :raise GuestDied: a vCPU thread has ended.
    """
    first = {each.tid: each.cpu_ns for each in look(pid, tids)}
    left = set(tids)

    def has_entered(seen: ThreadState) -> bool:
        if seen.entry in {Entry.GUP, Entry.HALTED, Entry.ASYNC_PF}:
            return True
        # It has run since the first look, and neither spins nor waits in the kernel.
        runs = seen.entry is Entry.NONE and not seen.stack and not seen.called
        return runs and seen.cpu_ns > first[seen.tid]

    def all_have_entered() -> bool | None:
        left.difference_update(each.tid for each in look(pid, sorted(left)) if has_entered(each))
        return not left or None

    await deadline.poll(all_have_entered, "Every vCPU in its guest")


async def quiet(pid: int, deadline: Deadline) -> None:
    """Wait until no thread of QEMU has anything to do: two looks are equal, and all threads sleep.

    Equal looks alone prove nothing: a thread that is ready to run looks the same while other
    threads have the CPUs.

    :raise DeadlinePassed: a thread always had something to do.
    :raise GuestDied: QEMU has ended.
    """
    looks: list[ThreadState] = []

    def twice_the_same() -> bool | None:
        nonlocal looks
        earlier, looks = looks, look_at_all(pid, ())
        return (looks == earlier and all(each.state in threads.ASLEEP for each in looks)) or None

    await deadline.poll(twice_the_same, f"Rest in process {pid}", interval_s=QUIET_S)
