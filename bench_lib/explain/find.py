# SPDX-License-Identifier: BSD-3-Clause
"""Finds virtual machine monitors: all of this host, or one by its process or its guest's name."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from bench_lib.errors import (
    ExplainError,
    GuestNameAmbiguous,
    NoSuchGuest,
    NotAVmm,
    ProcessBlocked,
    ProcessEnded,
    ProcessGone,
    ProcessHidden,
)
from bench_lib.explain import bounded, vmm
from bench_lib.explain.bounded import BLOCKED, Blocked
from bench_lib.explain.vmm import ENDED, GONE, HIDDEN, OTHER, PROC, Look, Vmm

NO_NAME = "the guest's name: the command line cannot be read while a thread holds mmap_lock"

LIMIT_S = 2.0
"""Seconds that the kernel may take to show one process; a thousandth of one is usual."""

NAME_LIMIT_S = 0.5


def all_of_them() -> tuple[list[Vmm], list[str]]:
    """Every VMM on this host, and what could not be seen, in sentences."""
    pids = sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal())
    found, missed, hidden = [], [], 0
    for pid, result in _looks([pid for pid in pids if pid != os.getpid()]):
        if isinstance(result, Look) and result.vmm is not None:
            found.append(result.vmm)
        elif not isinstance(result, Look):
            missed.append(
                f"Process {pid} could not be looked at: the kernel gave no answer within "
                f"{LIMIT_S:g} s, as while it executes another program."
            )
        else:
            hidden += result.why == HIDDEN
    if hidden:
        missed.append(
            f"Processes that may not be looked into: {hidden}. If one of them is a VMM, it is "
            "missing here; root sees more."
        )
    return _named(found), missed


def by_pid(pid: int) -> Vmm:
    """The VMM that is this process.

    :raise ProcessGone: there is no such process. :raise NotAVmm: it runs no vCPU.
    :raise ProcessHidden: this user may not see whether it does.
    :raise ProcessEnded: it ended while it was looked at.
    :raise ProcessBlocked: the kernel does not let it be looked at.
    """
    ((_, result),) = _looks([pid])
    if not isinstance(result, Look):
        raise ProcessBlocked(
            f"The kernel did not show process {pid} within {LIMIT_S:g} s: a thread of it holds a "
            "lock, as while it executes another program. Try again."
        )
    if result.vmm is None:
        raise _REASONS[str(result.why)](pid)
    return _named([result.vmm])[0]


def by_name(name: str) -> Vmm:
    """The VMM whose guest has this name.

    :raise NoSuchGuest: there is none. :raise GuestNameAmbiguous: there are several.
    """
    found, missed = all_of_them()
    named = [each for each in found if each.name == name]
    if len(named) == 1:
        return named[0]
    if named:
        pids = ", ".join(str(each.pid) for each in named)
        raise GuestNameAmbiguous(
            f"{len(named)} guests are called {name!r}, the processes {pids}; name one of those."
        )
    others = ", ".join(each.name for each in found if each.name) or "none with a name"
    unread = [str(each.pid) for each in found if NO_NAME in each.hidden]
    if unread:
        missed.append(f"The name of process {', '.join(unread)} cannot be read; name the process.")
    raise NoSuchGuest(" ".join([f"No guest is called {name!r}; running here: {others}.", *missed]))


def _gone(pid: int) -> ProcessGone:
    return ProcessGone(f"There is no process {pid}.")


def _not_a_vmm(pid: int) -> NotAVmm:
    return NotAVmm(
        f"Process {pid} runs no vCPU of KVM; `kickbench explain` without an argument finds those "
        "that do."
    )


def _hidden(pid: int) -> ProcessHidden:
    return ProcessHidden(
        f"Process {pid} belongs to another user, and whether it runs vCPUs may not be seen; run "
        "as root."
    )


def _ended(pid: int) -> ProcessEnded:
    return ProcessEnded(f"Process {pid} ended while it was looked at.")


_REASONS: dict[str, Callable[[int], ExplainError]] = {
    GONE: _gone,
    OTHER: _not_a_vmm,
    HIDDEN: _hidden,
    ENDED: _ended,
}


def _looks(pids: Sequence[int]) -> list[tuple[int, Look | Blocked]]:
    return list(bounded.each(pids, vmm.look, Look, LIMIT_S))


def _named(found: Sequence[Vmm]) -> list[Vmm]:
    """The same, with the names of their guests."""
    names = dict(bounded.each([each.pid for each in found], _name, str | None, NAME_LIMIT_S))
    return [
        replace(each, hidden=(*each.hidden, NO_NAME))
        if (name := names[each.pid]) is BLOCKED
        else replace(each, name=name)
        for each in found
    ]


def _name(pid: int) -> str | None:
    """The name that QEMU was given for its guest. Runs in a child, for it may block."""
    try:
        words = (PROC / f"{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    for option, value in itertools.pairwise(words):
        if option in {"-name", "--name"}:
            return guest_name(value)
    return None


def guest_name(value: str) -> str | None:
    """The name in the value of QEMU's -name, in which a comma is written twice."""
    for part in re.split(r"(?<!,),(?!,)", value):
        key, equals, name = part.partition("=")
        if not equals or key == "guest":
            return (name if equals else key).replace(",,", ",")
    return None
