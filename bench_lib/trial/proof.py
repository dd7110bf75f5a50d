"""Proof that vCPUs are stuck, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, GuestDied, NotStuck
from bench_lib.record import Entry, Outcome
from bench_lib.threads import ThreadState

APART_S = 0.005
"""Seconds between the two looks at a thread that must agree."""


def look(pid: int, tids: Sequence[int]) -> list[ThreadState]:
    """Look once at each vCPU thread.

    :raise GuestDied: one is not there any more.
    """
    try:
        return [threads.observe(pid, tid) for tid in tids]
    except ProcessLookupError:
        raise GuestDied(f"Process {pid} has lost a vCPU thread.") from None


async def stuck(
    pid: int,
    tids: Sequence[int],
    path: Entry,
    deadline: Deadline,
    apart_s: float = APART_S,
) -> list[ThreadState]:
    """Wait until every vCPU thread was seen stuck twice, in the same place.

    :param path: the fault path that the guest image takes.
    :param apart_s: seconds between the two looks.
    :return: the second look at each.
    :raise NotStuck: one was not seen so in time; the sentence says what was seen instead.
    :raise GuestDied: there is no such thread any more.
    """
    looks: list[ThreadState] = []

    def twice_the_same() -> list[ThreadState] | None:
        nonlocal looks
        earlier, looks = looks, look(pid, tids)
        agree = len(earlier) == len(looks) and all(
            now.state in threads.ASLEEP and now.fault_path is path and now.same_sleep(then)
            for now, then in zip(looks, earlier, strict=True)
        )
        return looks if agree else None

    try:
        return await deadline.poll(twice_the_same, "Every vCPU stuck", interval_s=apart_s)
    except DeadlinePassed:
        seen = "; ".join(
            f"vCPU {number} in state {look.state}, {look.wchan}, path {look.fault_path}"
            for number, look in enumerate(looks)
        )
        raise NotStuck(
            f"Not every vCPU was seen stuck on path {path} before the deadline: {seen or 'none'}."
        ) from None


async def alive(pid: int, tids: Sequence[int], deadline: Deadline) -> list[ThreadState]:
    """Wait until every vCPU thread has run its guest, be it only until it was stuck.

    :return: the last look at each.
    :raise NotStuck: one has not; the sentence says what was seen.
    :raise GuestDied: there is no such thread any more.
    """
    begin = look(pid, tids)
    looks = begin

    def all_have_run() -> list[ThreadState] | None:
        nonlocal looks
        looks = look(pid, tids)
        ran = all(
            # The kernel adds up CPU time at its ticks, and when a thread goes to sleep.
            now.cpu_ns > then.cpu_ns or now.fault_path is not Entry.NONE
            for now, then in zip(looks, begin, strict=True)
        )
        return looks if ran else None

    try:
        return await deadline.poll(all_have_run, "Every vCPU alive")
    except DeadlinePassed:
        seen = "; ".join(f"{now.state} {now.wchan}" for now in looks)
        raise NotStuck(f"Not every vCPU was seen to run its guest: {seen}.") from None


def how_it_hung(
    before: Sequence[ThreadState], after: Sequence[ThreadState], elapsed_ns: int
) -> Outcome:
    """Whether a guest that gave no answer sleeps in the fault or spins, though it was called.

    One that nobody has called may sleep as long as it likes; what keeps the answer is elsewhere.

    :param elapsed_ns: between the two looks at its threads.
    :raise NotStuck: it does neither, so something else has kept the answer back.
    """
    if threads.spin(before, after, elapsed_ns):
        return Outcome.SPINNING
    if any(
        now.called and now.state in threads.ASLEEP and now.fault_path is not Entry.NONE
        for now in after
    ):
        return Outcome.ASLEEP
    seen = "; ".join(f"{now.state} {now.wchan}" for now in after)
    raise NotStuck(f"No answer came, but no vCPU that was called sleeps or spins: {seen}.")
