# SPDX-License-Identifier: BSD-3-Clause
"""Which thread explains that a request has no answer."""

from __future__ import annotations

from collections.abc import Sequence

from bench_lib.record import Entry, Outcome, WaitsFor
from bench_lib.threads import stack
from bench_lib.threads.look import ThreadState, spin

_FAULTS = frozenset({Entry.GUP, Entry.UACCESS, Entry.GPC, Entry.USER, Entry.ASYNC_PF})


def blame(
    before: Sequence[ThreadState], after: Sequence[ThreadState], elapsed_ns: int
) -> tuple[Outcome, ThreadState | None]:
    """How a request hung that has no answer, and the thread that explains it.

    :param before: the threads just before the request, and `after` at its deadline. Threads that
        are not in both may be blamed for sleeping, and not for spinning.
    :param elapsed_ns: between the two looks.
    :return: `spinning` or `asleep` with the blocker, as it was at the end; else `unanswered`.
    """
    if spinner := _spinner(before, after, elapsed_ns):
        return Outcome.SPINNING, spinner
    if sleeper := _sleeper(after):
        return Outcome.ASLEEP, sleeper
    return Outcome.UNANSWERED, None


def _spinner(
    before: Sequence[ThreadState], after: Sequence[ThreadState], elapsed_ns: int
) -> ThreadState | None:
    """Of threads that are called and spin together, the one that was awake longest."""
    earlier = {state.tid: state for state in before}
    called = [now for now in after if now.called and now.tid in earlier]
    if not spin([earlier[now.tid] for now in called], called, elapsed_ns):
        return None
    return max(called, key=lambda now: now.awake_ns - earlier[now.tid].awake_ns)


def _sleeper(after: Sequence[ThreadState]) -> ThreadState | None:
    """The thread whose sleep the request waits for.

    One that was called is the best guess; then one in D. While the main loop waits for its
    descriptors it waits for no thread, so that only a called one can be what keeps an answer back.
    """
    idle_loop = any(state.tid == state.pid and stack.polls(state.stack) for state in after)
    candidates = [
        state
        for state in after
        if not stack.polls(state.stack) and not stack.in_futex(state.stack)
        if _cannot_leave(state)
        if state.called or not idle_loop
    ]
    # Who waits for a lock waits for another one of these.
    rank = {WaitsFor.LOCK: 2, WaitsFor.NOTHING: 1}
    return min(
        candidates,
        key=lambda state: (not state.called, rank.get(state.waits_for, 0)),
        default=None,
    )


def _cannot_leave(state: ThreadState) -> bool:
    """Whether no signal ends the sleep of a thread, as far as was seen."""
    if state.state == "D":
        return True
    waits = state.entry in _FAULTS or state.waits_for is not WaitsFor.NOTHING
    return state.state == "S" and state.called and waits
