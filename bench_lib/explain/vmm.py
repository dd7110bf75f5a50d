# SPDX-License-Identifier: BSD-3-Clause
"""Read a virtual machine monitor and its threads from /proc."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import EvidenceHidden, NotRoot
from bench_lib.record import Entry, Role, WaitsFor
from bench_lib.threads import Part, ThreadState

PROC = Path("/proc")

APART_S = 0.1
"""Seconds between the two looks at each thread. A thread that sleeps in the same place in both, and
has used no CPU time between them, has slept all the time."""

_VCPU_NAME = re.compile(r"CPU \d+/KVM")

NO_STACKS = "kernel stacks, which only root may read: how a thread got into its wait is not known"
NO_DESCRIPTORS = "open files: vCPUs are recognized by the names of their threads only"


@dataclass(frozen=True)
class Seen:
    """A thread, after two looks at it.

    :ivar stack: the innermost function first; None if this user may not read it.
    :ivar entry: how the thread got into the kernel's wait; None if its stack may not be read.
    :ivar signals: names of the signals that are pending for the thread.
    :ivar called: whether a signal or a tracer waits for the thread to leave the kernel.
    :ivar still: whether the thread slept in the same place all the time.
    :ivar cpu_share: the share of a CPU that the thread used between the looks.
    :ivar awake_share: the share of the time that it ran, or waited for a CPU.
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
    awake_share: float = 0.0

    @property
    def frames(self) -> tuple[str, ...]:
        """Return the stack as far as it is known, at least the innermost function."""
        return (self.wchan,) if self.stack is None else self.stack

    @property
    def label(self) -> str:
        """The name of the thread for people: vCPU 0, main, IO mon_iothread (16595)."""
        if self.role is Role.VCPU:
            return f"vCPU {'?' if self.vcpu is None else self.vcpu}"
        return "main" if self.role is Role.MAIN else f"{self.name} ({self.tid})"


@dataclass(frozen=True)
class OpenFile:
    """A file that a VMM has open on a file system with a server.

    :ivar kind: the type of the file system: fuse, nfs4, ...
    :ivar device: the minor number of its device, which is the number of a FUSE connection.
    """

    path: str
    kind: str
    device: int


@dataclass(frozen=True)
class Vmm:
    """A process that runs vCPUs.

    :ivar name: the guest's name; None if it has none, or if the name could not be read.
    :ivar program: the program's name in the kernel (comm).
    :ivar pending: names of the signals that are pending for the process.
    :ivar files: the open files on FUSE and NFS.
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
    """The result of a look at a process: a VMM, or the reason why there is none."""

    vmm: Vmm | None
    why: str | None = None


GONE, OTHER, HIDDEN, ENDED = "gone", "no vmm", "hidden", "ended"


def look(pid: int) -> Look:
    """Look twice at a process. This may block, so call it in a child; see `bounded`."""
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
        # /proc has a folder for each thread id, too, which shows the whole process.
        pid = _process_of(folder)
        folder = PROC / str(pid)
    except (FileNotFoundError, ProcessLookupError):
        return Look(None, GONE)
    try:
        with_stacks = _stacks_are_readable(pid)
        before = threads.observe_all(pid, with_stacks=with_stacks)
        start_ns = time.monotonic_ns()
        deadline = Deadline.after(APART_S)
        caught = threads.catch(before, deadline) if with_stacks else {}
        time.sleep(deadline.remaining_s)
        after = [
            threads.where_caught(now, caught)
            for now in threads.observe_all(pid, with_stacks=with_stacks)
        ]
        elapsed_ns = time.monotonic_ns() - start_ns
        parts = threads.roles(pid, after)
        files = _on_servers(folder, links.values())
    except (FileNotFoundError, ProcessLookupError):
        return Look(None, ENDED)
    except OSError as error:
        # mountinfo fails with EINVAL once an exiting process has left its mount namespace.
        if error.errno != errno.EINVAL:
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
    """Return what the descriptors of a process refer to, without touching the files."""
    links = {}
    for link in (folder / "fd").iterdir():
        try:
            links[link.name] = str(link.readlink())
        except FileNotFoundError:
            continue
    return links


def _process_of(folder: Path) -> int:
    """Return the id of the process that a thread belongs to."""
    status = (folder / "status").read_text(errors="replace")
    return int(status.partition("Tgid:")[2].split()[0])


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
    used_ns = 0 if then is None else now.cpu_ns - then.cpu_ns
    awake_ns = 0 if then is None else now.awake_ns - then.awake_ns
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
        _is_called(now),
        still=then is not None
        and now.state in threads.ASLEEP
        and (now.wchan, now.stack, now.cpu_ns) == (then.wchan, then.stack, then.cpu_ns),
        cpu_share=round(used_ns / elapsed_ns, 2),
        awake_share=round(awake_ns / elapsed_ns, 2),
    )


def _is_called(now: ThreadState) -> bool:
    """Whether a signal or a tracer waits for a thread to leave the kernel.

    A thread that only a tracer may have called is a special case: the tracer may have let it run
    long ago, as strace does. If such a thread sleeps or runs its guest, no tracer is assumed to
    wait; if it runs in a page fault, one is.
    """
    if not now.only_traced:
        return now.called
    return now.state == threads.RUNNING and now.fault_path is not Entry.NONE


def _on_servers(folder: Path, paths: Iterable[str]) -> tuple[OpenFile, ...]:
    """Return the files that are on FUSE or NFS, according to the list of mounts."""
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
