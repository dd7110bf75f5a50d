# SPDX-License-Identifier: BSD-3-Clause
"""Explain the threads of a VMM: what they wait for, what that blocks, and what ends the wait.

These are pure functions of what `vmm` has read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from bench_lib.explain import shared
from bench_lib.explain.judged import spins, stuck, unkillable
from bench_lib.explain.vmm import OpenFile, Seen, Vmm
from bench_lib.record import Entry, Role, WaitsFor
from bench_lib.threads import TRACED, polls

CALLS_VCPUS = ("stop", "Ctrl-C", "SIGTERM", "quit", "gdb", "info registers")
"""Requests that every vCPU has to leave the kernel for."""

MONITOR = ("query-status and other commands that leave the vCPUs alone",)
OUT_OF_BAND = (
    "out-of-band commands (migrate-pause, migrate-recover, yank) where the monitor has them on",
)
KILL = "SIGKILL"

_REASONS = {
    Entry.GUP: "KVM wants to map a page of the guest's memory",
    Entry.UACCESS: "the kernel itself touched a page while it copied from or to memory",
    Entry.GPC: "KVM wants a page that it keeps mapped, such as kvmclock's",
    Entry.ASYNC_PF: "KVM has halted it while a kernel worker fetches a page of the guest",
    Entry.HALTED: "KVM has halted it, because the guest has nothing for it to do",
    Entry.USER: "it touched a page in user mode",
    Entry.SYSCALL: "it is in a system call",
    Entry.NONE: "it is in the kernel",
}

_WAITS = {
    WaitsFor.USERFAULT: "a userfaultfd handler has not delivered the page (after the switch of a "
    "postcopy migration, the source has to send it)",
    WaitsFor.FUSE: "a FUSE server does not answer",
    WaitsFor.NFS: "an NFS server does not answer",
    WaitsFor.SWAP: "the swap device does not answer",
    WaitsFor.PAGE_CACHE: "the file system or device that the page's file is on does not answer",
    WaitsFor.MEMORY_LIMIT: "its cgroup has more memory than memory.high",
    WaitsFor.LOCK: "another thread holds a lock that it needs",
    WaitsFor.NOTHING: "its stack does not show what it waits for",
}


@dataclass(frozen=True)
class Meaning:
    """The explanation of threads that are stuck in the same way.

    :ivar tids: the ids of the threads.
    :ivar who: the names of the threads, for people.
    :ivar sentence: what the threads wait for, and whether a signal ends the wait.
    :ivar hangs: requests that will not be answered.
    :ivar works: requests that will be answered.
    :ivar free: commands and steps that free the threads.
    :ivar avoid: how to start guests that do not get stuck in this way, if that is known.
    """

    tids: tuple[int, ...]
    who: str
    sentence: str
    hangs: tuple[str, ...]
    works: tuple[str, ...]
    free: tuple[str, ...]
    avoid: tuple[str, ...] = ()


def explain(vmm: Vmm) -> list[Meaning]:
    """Explain each group of threads that are stuck in the same way, vCPUs first."""
    if vmm.threads and all(thread.state in TRACED for thread in vmm.threads):
        return [_stopped(vmm)]
    groups: dict[tuple[object, ...], list[Seen]] = {}
    for thread in sorted(vmm.threads, key=lambda seen: seen.role is not Role.VCPU):
        if stuck(thread):
            same = (thread.role, thread.state, thread.stack, thread.wchan, thread.called)
            groups.setdefault(same, []).append(thread)
    return [_meaning(vmm, group) for group in groups.values()]


def _stopped(vmm: Vmm) -> Meaning:
    """Explain a VMM whose threads are all stopped."""
    traced = any(thread.state == "t" for thread in vmm.threads)
    by = "a debugger" if traced else "a signal, such as SIGSTOP"
    return Meaning(
        tuple(thread.tid for thread in vmm.threads),
        "every thread",
        f"is stopped by {by}. A guest that has migrated away from here gets no pages meanwhile.",
        (*CALLS_VCPUS, *MONITOR, *OUT_OF_BAND),
        (KILL,),
        ("Let the debugger go on, or detach it." if traced else f"kill -CONT {vmm.pid}",),
    )


def _meaning(vmm: Vmm, alike: Sequence[Seen]) -> Meaning:
    first = alike[0]
    hangs, works = _requests(vmm, first)
    page = shared.find(first)
    return Meaning(
        tuple(thread.tid for thread in alike),
        who(alike),
        f"{_state(first)}: {_reason(first)}.",
        hangs,
        works,
        tuple(_free(vmm, first)),
        () if page is None else (page.avoid,),
    )


def who(alike: Sequence[Seen]) -> str:
    """Return the names of threads for people: vCPUs 0-3, 7."""
    if len(alike) == 1 or alike[0].role is not Role.VCPU:
        return ", ".join(thread.label for thread in alike)
    numbers = sorted(thread.vcpu for thread in alike if thread.vcpu is not None)
    unknown = len(alike) - len(numbers)
    parts = [_ranges(numbers), f"{unknown} unknown" if unknown else ""]
    return f"vCPUs {', '.join(part for part in parts if part)}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers as ranges: 0-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _state(thread: Seen) -> str:
    if spins(thread):
        return (
            f"spins ({thread.cpu_share:.0%} of a CPU) with {_callers(thread)} waiting, because the "
            "kernel's fault handler retries forever"
        )
    if thread.state == "D":
        reach = "only SIGKILL reaches it"
        if thread.stack is None:
            reach = "at most SIGKILL reaches it"
        elif unkillable(thread):
            reach = "not even SIGKILL reaches it"
        return f"sleeps in state D, where {reach}"
    if thread.called:
        return f"sleeps in state S, but does not take {_callers(thread)}"
    if thread.waits_for is WaitsFor.FUSE:
        return "sleeps in state S, but the first signal only moves it into state D"
    if thread.entry is Entry.UACCESS:
        return "sleeps in state S, but the first signal only makes it spin"
    if thread.entry is None:
        return "sleeps in state S; whether a signal gets through shows only in its stack"
    return "sleeps in state S, in which a signal ends the wait"


def _callers(thread: Seen) -> str:
    return " and ".join(thread.signals) or "a signal or a tracer"


def _reason(thread: Seen) -> str:
    if thread.waits_for is WaitsFor.NOTHING and spins(thread):
        return "its stack changes too fast to show what it waits for"
    if thread.entry is None and thread.waits_for is WaitsFor.NOTHING:
        return "what it waits for shows only in its stack, which only root may read"
    where = "it is in the kernel" if thread.entry is None else _REASONS[thread.entry]
    if (page := shared.find(thread)) is not None:
        where = page.sentence
        if thread.waits_for is WaitsFor.USERFAULT:
            return (
                f"{where}, and this page is missing: after the switch of a postcopy migration only "
                "the source can send it, and the source has not sent it"
            )
    function = "" if thread.wchan == "0" else f" ({thread.wchan})"
    return f"{where}, and {_WAITS[thread.waits_for]}{function}"


def _gets_through(thread: Seen) -> bool:
    """Whether a signal will end the wait, as far as the stack shows that."""
    return (
        thread.state == "S"
        and not thread.called
        and thread.entry in {Entry.GUP, Entry.USER, Entry.SYSCALL}
        and thread.waits_for is WaitsFor.USERFAULT
    )


def _requests(vmm: Vmm, thread: Seen) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the requests that will not be answered, and those that will be."""
    main = next((each for each in vmm.threads if each.role is Role.MAIN), None)
    loop = _main_loop(main)
    hangs: tuple[str, ...] = ()
    works: tuple[str, ...] = ()
    if _gets_through(thread):
        works += CALLS_VCPUS
    elif thread.role is Role.VCPU or thread is main:
        hangs += CALLS_VCPUS
    else:
        hangs += ("gdb", *(("quit", "SIGTERM") if thread.state == "D" else ()))
    if loop is Loop.WAITS:
        hangs += ("query-status (the main loop waits as well)",)
    elif loop is Loop.RUNS:
        works += MONITOR
    works += OUT_OF_BAND
    if thread.state == "D" and unkillable(thread):
        hangs += (KILL,)
    elif thread.waits_for is WaitsFor.FUSE:
        hangs += (f"{KILL} (once the server has taken the request)",)
    elif thread.state != "D" or thread.stack is not None:
        works += (KILL,)
    return hangs, works


class Loop(Enum):
    """The state of QEMU's main loop, which serves the monitor."""

    RUNS = "runs"
    WAITS = "waits"
    UNKNOWN = "unknown"


def _main_loop(main: Seen | None) -> Loop:
    if main is None or (main.stack is None and main.wchan == "0" and main.state != "R"):
        return Loop.UNKNOWN
    return Loop.RUNS if polls(main.frames) or main.state == "R" else Loop.WAITS


def _free(vmm: Vmm, thread: Seen) -> Sequence[str]:
    """Return commands and steps that end the wait."""
    return _FREE[thread.waits_for](vmm, thread)


def _recover(vmm: Vmm, thread: Seen) -> Sequence[str]:
    return (
        "If the source is only stopped: kill -CONT its process.",
        "Otherwise recover the migration. Destination, on a monitor with out-of-band commands: "
        '{"exec-oob": "migrate-pause"}, then {"exec-oob": "migrate-recover", "arguments": {"uri": '
        '"tcp:ADDRESS:PORT"}}. Source: {"execute": "migrate", "arguments": {"uri": '
        '"tcp:ADDRESS:PORT", "resume": true}}.',
    )


def _fuse(vmm: Vmm, thread: Seen) -> Sequence[str]:
    files = [each for each in vmm.files if each.kind.startswith("fuse")]
    aborts = [f"echo 1 > /sys/fs/fuse/connections/{each.device}/abort" for each in files]
    return (
        "Let the FUSE server answer (kill -CONT it, if it is stopped).",
        "Last resort, which loses what was not written and fails the guest's access: "
        + (" or ".join(dict.fromkeys(aborts)) or "echo 1 > /sys/fs/fuse/connections/N/abort")
        + " (if that folder is empty, first mount -t fusectl fusectl /sys/fs/fuse/connections)",
    )


def _nfs(vmm: Vmm, thread: Seen) -> Sequence[str]:
    return (
        "Let the NFS server answer, or restore the network to it.",
        "Last resort, which fails the guest's access: umount -f the mount.",
    )


def _file(vmm: Vmm, thread: Seen) -> Sequence[str]:
    steps: list[str] = []
    if vmm.files:
        steps.append(f"Open on a file system with a server: {_named(vmm.files)}.")
        kinds = {each.kind[:3] for each in vmm.files}
        steps.extend(_fuse(vmm, thread) if "fus" in kinds else ())
        steps.extend(_nfs(vmm, thread) if "nfs" in kinds else ())
    else:
        steps.append("Let the file system or device answer; `dmesg` may name it.")
    return steps


def _named(files: Sequence[OpenFile]) -> str:
    return ", ".join(f"{each.path} ({each.kind})" for each in files)


def _swap(vmm: Vmm, thread: Seen) -> Sequence[str]:
    return (
        "Let the swap device answer; `swapon --show` names it. swapoff does not help, because it "
        "has to read the pages as well.",
    )


def _limit(vmm: Vmm, thread: Seen) -> Sequence[str]:
    return (
        f"Raise memory.high of its cgroup, which /proc/{vmm.pid}/cgroup names. Until then it goes "
        "on for a moment every two seconds at most.",
    )


def _holder(vmm: Vmm, thread: Seen) -> Sequence[str]:
    others = [
        each
        for each in vmm.threads
        if each is not thread and stuck(each)
        if each.waits_for not in {WaitsFor.LOCK, WaitsFor.NOTHING}
    ]
    if not others:
        return ("It goes on when the lock is free. Which thread holds the lock is not known.",)
    names = " or ".join(each.label for each in others)
    return (f"It goes on when {names} does, which probably holds the lock. Free that first.",)


def _unknown(vmm: Vmm, thread: Seen) -> Sequence[str]:
    return ("Nothing is known but its stack; `dmesg` may have more.",)


_FREE: dict[WaitsFor, Callable[[Vmm, Seen], Sequence[str]]] = {
    WaitsFor.USERFAULT: _recover,
    WaitsFor.FUSE: _fuse,
    WaitsFor.NFS: _nfs,
    WaitsFor.PAGE_CACHE: _file,
    WaitsFor.SWAP: _swap,
    WaitsFor.MEMORY_LIMIT: _limit,
    WaitsFor.LOCK: _holder,
    WaitsFor.NOTHING: _unknown,
}
