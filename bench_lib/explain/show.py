# SPDX-License-Identifier: BSD-3-Clause
"""Format explanations, as text for people and as JSON for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import msgspec

from bench_lib.explain.meaning import Meaning, explain, who
from bench_lib.explain.vmm import NO_STACKS, Seen, Vmm
from bench_lib.record import Role

WIDTH = 100
"""The width of sentences, in columns. Commands are broken only between words."""

MANY = 24
"""If a VMM has more threads than this, only vCPUs, the main thread, iothreads and stuck threads are
listed, and vCPUs that are alike have one line. The others are counted."""


def lines(vmm: Vmm) -> Iterator[str]:
    """Yield the lines about a VMM."""
    guest = f"guest {vmm.name}" if vmm.name else "a guest without a name"
    pending = f", {' '.join(vmm.pending)} pending" if vmm.pending else ""
    yield f"process {vmm.pid} ({vmm.program}), {guest}{pending}"
    meanings = explain(vmm)
    shown, left_out = _worth_showing(vmm, meanings)
    rows = _rows(shown, together=len(vmm.threads) > MANY)
    width = max((len(label) for label, _ in rows), default=0)
    for label, text in rows:
        yield f"  {label:<{width}}  {text}"
    if left_out:
        yield f"  and {left_out} other threads, none of them stuck"
    for hidden in vmm.hidden:
        yield f"  not seen: {hidden}"
    if not meanings and NO_STACKS in vmm.hidden:
        yield "  No thread is seen to be stuck; one in state S cannot be judged without its stack."
    elif not meanings:
        yield "  No thread is stuck."
    for meaning in meanings:
        yield ""
        subject = f"each of {meaning.who}" if meaning.who.startswith("vCPUs") else meaning.who
        yield from _wrapped("  ", f"{subject} {meaning.sentence}")
        if meaning.hangs:
            yield from _wrapped("    no answer   ", ", ".join(meaning.hangs))
        if meaning.works:
            yield from _wrapped("    still work  ", ", ".join(meaning.works))
        for number, step in enumerate(meaning.free):
            yield from _wrapped("                " if number else "    to free it  ", step)
        for step in meaning.avoid:
            yield from _wrapped("    to avoid it ", step)


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _worth_showing(vmm: Vmm, meanings: Sequence[Meaning]) -> tuple[list[Seen], int]:
    """Return the threads to list, and the number of threads that are left out."""
    threads = sorted(vmm.threads, key=lambda seen: (seen.role != "vcpu", seen.vcpu or 0))
    if len(threads) <= MANY:
        return threads, 0
    of_interest = {tid for meaning in meanings for tid in meaning.tids}
    shown = [each for each in threads if each.role != "other" or each.tid in of_interest]
    return shown, len(threads) - len(shown)


def _rows(shown: Sequence[Seen], *, together: bool) -> list[tuple[str, str]]:
    """Return the label and the text of each line.

    :param together: whether vCPUs that are alike have one line, with their CPU time together.
    """
    groups: dict[tuple[object, ...], list[Seen]] = {}
    for number, thread in enumerate(shown):
        alike = together and thread.role is Role.VCPU
        groups.setdefault((_thread(thread), None if alike else number), []).append(thread)
    rows = []
    for group in groups.values():
        share = sum(each.cpu_share for each in group)
        busy = f" {share:.0%} CPU" if share >= 0.01 else ""
        rows.append((who(group), f"{_thread(group[0])}{busy}"))
    return rows


def _thread(thread: Seen) -> str:
    entry = "?" if thread.entry is None else thread.entry
    signals = f" {','.join(thread.signals)} pending" if thread.signals else ""
    return f"{thread.state} {thread.wchan} {entry}/{thread.waits_for}{signals}"


def as_json(vmms: Sequence[Vmm], missed: Sequence[str]) -> str:
    """Return the explanations as JSON, with every stack."""
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "vmms": [{**msgspec.to_builtins(vmm), "meanings": explain(vmm)} for vmm in vmms],
                "not_seen": missed,
            }
        ),
        indent=2,
    ).decode()
