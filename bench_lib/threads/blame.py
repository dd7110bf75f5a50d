# SPDX-License-Identifier: BSD-3-Clause
"""Finding the thread that explains why a request has no answer."""

from __future__ import annotations

from collections.abc import Sequence

from bench_lib.record import Entry, Outcome, WaitsFor
from bench_lib.threads import stack
from bench_lib.threads.look import ThreadState, spin

_FAULTS = frozenset({Entry.GUP, Entry.UACCESS, Entry.GPC, Entry.USER, Entry.ASYNC_PF})

_READS_SLOTS = frozenset({Entry.GUP, Entry.UACCESS, Entry.GPC})
"""The faults of a guest's page in which a vCPU thread reads KVM's memory slots. One that KVM has
halted does not."""


def blame(
    before: Sequence[ThreadState],
    after: Sequence[ThreadState],
    elapsed_ns: int,
    *,
    acts: bool = True,
) -> tuple[Outcome, ThreadState | None]:
    """Decide how a request without an answer hung, and which thread explains that.

    :param before: the threads just before the request.
    :param after: the threads at the deadline. A thread that is not in `before` may be blamed for
        sleeping, but not for spinning.
    :param elapsed_ns: nanoseconds between the two looks.
    :param acts: whether the process itself has to do what was requested. If not, a lock that one of
        its threads holds delays the answer, whatever its main loop does, and no thread is called.
    :return: `spinning` or `asleep` with the blocker as `after` has it; else `unanswered` and None.
    """
    if spinner := _spinner(before, after, elapsed_ns):
        return Outcome.SPINNING, spinner
    if sleeper := _sleeper(after, acts=acts):
        return Outcome.ASLEEP, sleeper
    return Outcome.UNANSWERED, None


def _spinner(
    before: Sequence[ThreadState], after: Sequence[ThreadState], elapsed_ns: int
) -> ThreadState | None:
    """Return the thread that was awake longest, if the called threads together spin."""
    earlier = {state.tid: state for state in before}
    called = [now for now in after if now.called and now.tid in earlier]
    if not spin([earlier[now.tid] for now in called], called, elapsed_ns):
        return None
    return max(called, key=lambda now: now.awake_ns - earlier[now.tid].awake_ns)


def _sleeper(after: Sequence[ThreadState], *, acts: bool) -> ThreadState | None:
    """Return the thread whose sleep delays the answer.

    A called thread is the best guess, then a thread in state D. A main loop that polls its
    descriptors waits for no thread, so then only a called thread can delay the answer.

    A thread that waits for a lock, or in synchronize_srcu() for the readers of KVM's memory slots,
    waits for another thread. If that is no candidate, it probably is a vCPU that is stuck on a page
    of the guest. Such a vCPU may sleep in S, and no signal may be pending for it.
    """
    idle_loop = acts and any(state.tid == state.pid and stack.polls(state.stack) for state in after)
    candidates = [
        state
        for state in after
        if not stack.polls(state.stack) and not stack.in_futex(state.stack)
        if _cannot_leave(state, called=state.called or not acts)
        if state.called or not idle_loop
    ]
    # A thread that waits for a lock probably waits for another candidate, so it ranks last.
    rank = {WaitsFor.LOCK: 2, WaitsFor.NOTHING: 1}
    first = min(
        candidates,
        key=lambda state: (not state.called, rank.get(state.waits_for, 0)),
        default=None,
    )
    if first is None or first.called or first.waits_for is not WaitsFor.LOCK:
        return first
    stuck = (state for state in after if state.state == "S" and state.fault_path in _READS_SLOTS)
    return next(stuck, first)


def _cannot_leave(state: ThreadState, *, called: bool) -> bool:
    """Whether the thread sleeps in a way that no signal ends, as far as the look shows.

    :param called: whether it should leave the kernel, or let go of what it holds there.
    """
    if state.state == "D":
        return True
    waits = state.entry in _FAULTS or state.waits_for is not WaitsFor.NOTHING
    return state.state == "S" and called and waits
