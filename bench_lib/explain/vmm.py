"""Virtual machine monitors on this host, and their threads as the kernel shows them."""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench_lib import threads
from bench_lib.errors import (
    EvidenceHidden,
    GuestNameAmbiguous,
    NoSuchGuest,
    NotAVmm,
    NotRoot,
    ProcessBlocked,
    ProcessEnded,
    ProcessGone,
    ProcessHidden,
)
from bench_lib.explain import bounded
from bench_lib.explain.bounded import BLOCKED, Blocked
from bench_lib.record import Entry, Role, WaitsFor
from bench_lib.threads import Part, ThreadState

PROC = Path("/proc")

APART_S = 0.1
"""Seconds between the two looks at each thread: one that sleeps in both, in the same place, and has
burnt nothing, has slept all the time."""

LIMIT_S = 2.0
"""Seconds that the kernel may take to show one process; a thousandth of one is usual."""

NAME_LIMIT_S = 0.5

_VCPU_NAME = re.compile(r"CPU \d+/KVM")

NO_STACKS = "kernel stacks, which only root may read: how a thread got into its wait is not known"
NO_DESCRIPTORS = "open files: vCPUs are known by the names of their threads alone"
NO_NAME = "the guest's name: the command line cannot be read while a thread holds mmap_lock"


@dataclass(frozen=True)
class Seen:
    """A thread, by two looks.

    :ivar entry: None where its stack may not be read, as `stack`.
    :ivar still: whether it slept in the same place all the time.
    :ivar cpu_share: what it burnt of a CPU between the looks.
    """

    tid: int
    role: Role
    vcpu: int | None
    name: str
    state: str
    wchan: str
    stack: tuple[str, ...] | None
    entry: Entry | None
    waits_for: WaitsFor
    signals: tuple[str, ...] = ()
    called: bool = False
    still: bool = False
    cpu_share: float = 0.0

    @property
    def frames(self) -> tuple[str, ...]:
        """What there is of its stack: the innermost function at the least."""
        return (self.wchan,) if self.stack is None else self.stack

    @property
    def label(self) -> str:
        """What people call it: vCPU 0, main, IO mon_iothread."""
        if self.role is Role.VCPU:
            return f"vCPU {'?' if self.vcpu is None else self.vcpu}"
        return "main" if self.role is Role.MAIN else f"{self.name} ({self.tid})"


@dataclass(frozen=True)
class OpenFile:
    """A file that a VMM has open on a file system with a server.

    :ivar kind: of the file system: fuse, nfs4, ...
    :ivar device: the minor number of its device, which is the number of a FUSE connection.
    """

    path: str
    kind: str
    device: int


@dataclass(frozen=True)
class Vmm:
    """A process that runs vCPUs.

    :ivar name: of the guest; None where it has none, or it could not be read.
    :ivar program: as the kernel has it (comm).
    :ivar pending: names of the signals that wait for the process.
    :ivar files: what is open on FUSE and NFS.
    :ivar hidden: what could not be seen, in words.
    """

    pid: int
    name: str | None
    program: str
    uid: int
    threads: tuple[Seen, ...]
    pending: tuple[str, ...] = ()
    files: tuple[OpenFile, ...] = ()
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """What came of looking at a process: a VMM, or why there is none."""

    vmm: Vmm | None
    why: str | None = None


GONE, OTHER, HIDDEN, ENDED = "gone", "no vmm", "hidden", "ended"


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
    named = [vmm for vmm in found if vmm.name == name]
    if len(named) == 1:
        return named[0]
    if named:
        pids = ", ".join(str(vmm.pid) for vmm in named)
        raise GuestNameAmbiguous(
            f"{len(named)} guests are called {name!r}, the processes {pids}; name one of those."
        )
    others = ", ".join(vmm.name for vmm in found if vmm.name) or "none with a name"
    unread = [str(vmm.pid) for vmm in found if NO_NAME in vmm.hidden]
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


_REASONS: dict[str, Callable[[int], Exception]] = {
    GONE: _gone,
    OTHER: _not_a_vmm,
    HIDDEN: _hidden,
    ENDED: _ended,
}


def _looks(pids: Sequence[int]) -> list[tuple[int, Look | Blocked]]:
    return list(bounded.each(pids, _look, Look, LIMIT_S))


def _look(pid: int) -> Look:
    """Look twice at a process. Runs in a child, for it may block."""
    folder = PROC / str(pid)
    hidden = []
    try:
        uid = folder.stat().st_uid
        program = (folder / "comm").read_text(errors="replace").rstrip("\n")
        try:
            links = _links(folder)
        except PermissionError:
            links = {}
            hidden.append(NO_DESCRIPTORS)
            if not _has_vcpu_names(folder):
                return Look(None, HIDDEN)
        else:
            if not any(target.startswith("anon_inode:kvm-vcpu") for target in links.values()):
                return Look(None, OTHER)
    except (FileNotFoundError, ProcessLookupError):
        return Look(None, GONE)
    try:
        with_stacks = _stacks_are_readable(pid)
        before = threads.observe_all(pid, with_stacks=with_stacks)
        begin_ns = time.monotonic_ns()
        time.sleep(APART_S)
        after = threads.observe_all(pid, with_stacks=with_stacks)
        elapsed_ns = time.monotonic_ns() - begin_ns
        parts = threads.roles(pid, after)
        files = _on_servers(folder, links.values())
    except (FileNotFoundError, ProcessLookupError):
        return Look(None, ENDED)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of mountinfo, where it is in no namespace any more
            raise
        return Look(None, ENDED)
    if not with_stacks:
        hidden.append(NO_STACKS)
    then = {state.tid: state for state in before}
    seen = Vmm(
        pid,
        None,
        program,
        uid,
        tuple(
            _seen(now, then.get(now.tid), elapsed_ns, parts[now.tid], with_stack=with_stacks)
            for now in after
        ),
        after[0].pending,
        files,
        tuple(hidden),
    )
    return Look(seen)


def _links(folder: Path) -> dict[str, str]:
    """What the descriptors of a process are, without looking at any file behind them."""
    links = {}
    for link in (folder / "fd").iterdir():
        try:
            links[link.name] = str(link.readlink())
        except FileNotFoundError:
            continue
    return links


def _has_vcpu_names(folder: Path) -> bool:
    names = [(each / "comm").read_text(errors="replace") for each in (folder / "task").iterdir()]
    return any(_VCPU_NAME.fullmatch(name.rstrip("\n")) for name in names)


def _stacks_are_readable(pid: int) -> bool:
    try:
        threads.observe(pid, pid)
    except (NotRoot, EvidenceHidden):
        return False
    return True


def _seen(
    now: ThreadState, then: ThreadState | None, elapsed_ns: int, part: Part, *, with_stack: bool
) -> Seen:
    judged = now if with_stack else replace(now, stack=(now.wchan,))
    burnt_ns = 0 if then is None else now.cpu_ns - then.cpu_ns
    return Seen(
        now.tid,
        part.role,
        part.vcpu,
        now.name,
        now.state,
        now.wchan,
        now.stack if with_stack else None,
        now.entry if with_stack else None,
        judged.waits_for,
        now.signals,
        now.called,
        still=then is not None
        and now.state in threads.ASLEEP
        and (now.wchan, now.stack, now.cpu_ns) == (then.wchan, then.stack, then.cpu_ns),
        cpu_share=round(burnt_ns / elapsed_ns, 2),
    )


def _on_servers(folder: Path, paths: Iterable[str]) -> tuple[OpenFile, ...]:
    """Which of these files are on FUSE or NFS, by the list of mounts alone."""
    mounts = []
    for line in (folder / "mountinfo").read_text(errors="replace").splitlines():
        words = line.split()
        kind = words[words.index("-") + 1]
        if kind.startswith(("fuse", "nfs")):
            mounts.append((words[4], kind, int(words[2].partition(":")[2])))
    found = set()
    for path in paths:
        for mount, kind, device in mounts:
            if path.startswith(f"{mount}/"):
                found.add(OpenFile(path, kind, device))
    return tuple(sorted(found, key=lambda each: each.path))


def _named(found: Sequence[Vmm]) -> list[Vmm]:
    """The same, with the names of their guests."""
    names = dict(bounded.each([vmm.pid for vmm in found], _name, str | None, NAME_LIMIT_S))
    return [
        replace(vmm, hidden=(*vmm.hidden, NO_NAME))
        if (name := names[vmm.pid]) is BLOCKED
        else replace(vmm, name=name)
        for vmm in found
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
