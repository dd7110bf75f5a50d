# SPDX-License-Identifier: BSD-3-Clause
"""Find virtual machine monitors: all on this host, or one by process id or name of the guest."""

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
"""Seconds that the kernel may take to show one process. A millisecond is usual."""

NAME_LIMIT_S = 0.5
"""Seconds that the kernel may take to show one command line."""


def all_of_them() -> tuple[list[Vmm], list[str]]:
    """Return every VMM on this host, and sentences about what could not be seen."""
    pids = sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal())
    found, missed, hidden = [], [], 0
    for pid, result in _looks([pid for pid in pids if pid != os.getpid()]):
        if isinstance(result, Look) and result.vmm is not None:
            found.append(result.vmm)
        elif not isinstance(result, Look):
            missed.append(
                f"Process {pid} could not be read: the kernel did not show it within {LIMIT_S:g} "
                "s, because one of its threads holds a lock, for example during execve()."
            )
        else:
            hidden += result.why == HIDDEN
    if hidden:
        one = hidden == 1
        missed.append(
            f"This user may not read {'1 process' if one else f'{hidden} processes'}. If "
            f"{'it' if one else 'one of them'} is a VMM, it is missing here; {_to_see_more()}"
        )
    return _named(found), missed


def by_pid(pid: int) -> Vmm:
    """Return the VMM with this process id.

    :raise ProcessGone: there is no such process.
    :raise NotAVmm: the process runs no vCPU.
    :raise ProcessHidden: this user may not see whether the process runs a vCPU.
    :raise ProcessEnded: the process ended while it was read.
    :raise ProcessBlocked: the kernel did not show the process in time.
    """
    ((_, result),) = _looks([pid])
    if not isinstance(result, Look):
        raise ProcessBlocked(
            f"The kernel did not show process {pid} within {LIMIT_S:g} s, because one of its "
            "threads holds a lock, for example during execve(). Try again."
        )
    if result.vmm is None:
        raise _REASONS[str(result.why)](pid)
    return _named([result.vmm])[0]


def by_name(name: str) -> Vmm:
    """Return the VMM whose guest has this name.

    :raise NoSuchGuest: there is no such VMM.
    :raise GuestNameAmbiguous: there are several.
    """
    found, missed = all_of_them()
    named = [each for each in found if each.name == name]
    if len(named) == 1:
        return named[0]
    if named:
        pids = ", ".join(str(each.pid) for each in named)
        raise GuestNameAmbiguous(
            f"{len(named)} guests have the name {name!r}: processes {pids}. Give one of these ids "
            "instead."
        )
    others = ", ".join(each.name for each in found if each.name) or "none with a name"
    unread = [str(each.pid) for each in found if NO_NAME in each.hidden]
    if unread:
        missed.append(
            f"The guest name of process {', '.join(unread)} cannot be read; give the process id."
        )
    raise NoSuchGuest(
        " ".join([f"No guest has the name {name!r}; the running guests are: {others}.", *missed])
    )


def _gone(pid: int) -> ProcessGone:
    return ProcessGone(f"There is no process {pid}.")


def _not_a_vmm(pid: int) -> NotAVmm:
    return NotAVmm(
        f"Process {pid} runs no vCPU of KVM; `kickbench explain` without an argument finds the "
        "processes that do."
    )


def _hidden(pid: int) -> ProcessHidden:
    return ProcessHidden(
        f"Process {pid} belongs to another user, and this user may not see whether it runs vCPUs; "
        f"{_to_see_more()}"
    )


def _to_see_more() -> str:
    """Return what to do if a process may not be read, as the end of a sentence."""
    if os.geteuid() == 0:
        # The kernel requires every capability that the process has (ptrace_may_access()).
        return "root lacks a capability for that, as in a container; run kickbench on the host."
    return "run as root."


def _ended(pid: int) -> ProcessEnded:
    return ProcessEnded(f"Process {pid} ended while it was read.")


_REASONS: dict[str, Callable[[int], ExplainError]] = {
    GONE: _gone,
    OTHER: _not_a_vmm,
    HIDDEN: _hidden,
    ENDED: _ended,
}


def _looks(pids: Sequence[int]) -> list[tuple[int, Look | Blocked]]:
    return list(bounded.each(pids, vmm.look, Look, LIMIT_S))


def _named(found: Sequence[Vmm]) -> list[Vmm]:
    """Return the same VMMs with the names of their guests."""
    names = dict(bounded.each([each.pid for each in found], _name, str | None, NAME_LIMIT_S))
    return [
        replace(each, hidden=(*each.hidden, NO_NAME))
        if (name := names[each.pid]) is BLOCKED
        else replace(each, name=name)
        for each in found
    ]


def _name(pid: int) -> str | None:
    """Return the guest's name on QEMU's command line. This may block, so it runs in a child."""
    try:
        words = (PROC / f"{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    for option, value in itertools.pairwise(words):
        if option in {"-name", "--name"}:
            return guest_name(value)
    return None


def guest_name(value: str) -> str | None:
    """Return the name in the value of QEMU's -name, where two commas stand for one."""
    for part in re.split(r"(?<!,),(?!,)", value):
        key, equals, name = part.partition("=")
        if not equals or key == "guest":
            return (name if equals else key).replace(",,", ",")
    return None
