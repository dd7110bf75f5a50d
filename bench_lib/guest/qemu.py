# SPDX-License-Identifier: BSD-3-Clause
"""A guest: QEMU's command line, its process, and the connections to it."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench_lib import architecture, process
from bench_lib.deadline import Deadline, together
from bench_lib.errors import DebuggerFailed, GuestDied, MigrationFailed, MonitorFailed
from bench_lib.guest import monitor, serial
from bench_lib.guest.gdbstub import GdbStub
from bench_lib.guest.request_line import RequestLine
from bench_lib.guest.workloads import description
from bench_lib.guest.workloads.workload import Workload
from bench_lib.ownership import Run
from bench_lib.record import Backing, Shape

T = TypeVar("T")

SIGNS_OF_DEATH = (MonitorFailed, GuestDied, DebuggerFailed, MigrationFailed)
"""Errors that a dying QEMU may cause before its exit is seen: a closed monitor, a missing thread, a
thread that a debugger cannot trace, and at the other end a failed migration."""

LAST_LINES = 4
"""How many of QEMU's last lines of output an error has. QEMU prints the cause of a failed migration
a few lines before the failure."""


PLUGGED_MIB = 128
"""The size of a memory module that a guest is given while it runs. Linux takes no smaller ones."""


@dataclass(frozen=True)
class GuestConfig:
    """The configuration of a guest.

    :ivar name: a name that is unique on this host.
    :ivar qemu: QEMU's program.
    :ivar workload: what the guest runs.
    :ivar incoming: whether the guest waits for a migration.
    :ivar netns_fd: a descriptor of the network namespace for QEMU; None for our own.
    :ivar terminal: whether QEMU runs in the foreground of its own terminal.
    :ivar gdbstub: whether QEMU has a gdbstub.
    :ivar core: whether QEMU has a working directory of its own, for the core that it dumps.
    :ivar memory_slot: whether QEMU has a slot for a memory module of `PLUGGED_MIB`.
    :ivar state: the saved state that the guest starts from; None if it boots.
    :ivar paused: whether the guest waits for the command `cont` before it runs.
    :ivar memory_file: the file that is the guest's memory; None for memory of the shape's backing.
    """

    name: str
    qemu: str
    workload: Workload
    shape: Shape
    incoming: bool = False
    netns_fd: int | None = None
    terminal: bool = False
    gdbstub: bool = False
    core: bool = False
    memory_slot: bool = False
    state: Path | None = None
    memory_file: str | None = None
    paused: bool = False


def _memory(config: GuestConfig) -> list[str]:
    """Return the arguments for the guest's memory; none for anonymous memory, QEMU's default."""
    shape = config.shape
    if config.memory_file is not None:
        # A comma is doubled in the value of an option of QEMU.
        kind = f"file,mem-path={config.memory_file.replace(',', ',,')}"
    elif shape.backing is Backing.ANONYMOUS:
        return []
    elif shape.backing is Backing.HUGETLB:
        kind = f"memfd,hugetlb=on,hugetlbsize={architecture.for_trials().huge_page_mib}M"
    else:
        kind = "memfd"
    memory = f"memory-backend-{kind},id=memory,size={shape.memory_mib}M,share=on"
    return ["-object", memory, "-machine", "memory-backend=memory"]


def _slot(config: GuestConfig) -> str:
    """Return the part of -m for the slot of a memory module."""
    most_mib = config.shape.memory_mib + PLUGGED_MIB
    return f",slots=1,maxmem={most_mib}M" if config.memory_slot else ""


def command_line(
    config: GuestConfig,
    marks_fd: int,
    text_fd: int,
    control_fd: int,
    requests_fd: int,
    gdbstub_fd: int,
) -> list[str]:
    """Return QEMU's command line.

    The descriptors are connected sockets. So there are no paths in a file system, no connection has
    to be waited for, and no other process can connect.
    """
    ours = architecture.for_trials()
    # fmt: off
    return [
        config.qemu,
        # Name the process and its threads, for people who look at the host.
        "-name", f"guest={config.name},debug-threads=on",
        # Only the devices that are named here: each one costs time at the start, and `stop` would
        # wait until disks are flushed.
        "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", ours.machine, "-accel", "kvm",
        "-cpu", description.cpu_model(config.shape),
        "-smp", str(config.shape.vcpus),
        "-m", f"{config.shape.memory_mib}M{_slot(config)}",
        # A guest that resets is broken. With -no-reboot QEMU exits, which kickbench notices.
        "-no-reboot",
        *config.workload.arguments(config.shape),
        # The guest's first serial port has marks, the second one text.
        "-chardev", f"socket,id=marks,fd={marks_fd}", "-serial", "chardev:marks",
        "-chardev", f"socket,id=text,fd={text_fd}", "-serial", "chardev:text",
        # The measured request may block its own monitor for ever, so everything else uses
        # the other one.
        "-chardev", f"socket,id=control,fd={control_fd}", "-mon", "chardev=control,mode=control",
        "-chardev", f"socket,id=requests,fd={requests_fd}", "-mon", "chardev=requests,mode=control",
        *_memory(config),
        *(
            ["-chardev", f"socket,id=gdbstub,fd={gdbstub_fd}", "-gdb", "chardev:gdbstub"]
            if config.gdbstub else []
        ),
        *(["-S"] if config.paused else []),
        *(["-incoming", "defer"] if config.incoming or config.state else []),
    ]
    # fmt: on


class Guest:
    """A running QEMU.

    :ivar incoming: whether the guest was started to wait for a migration.
    :ivar child: QEMU's process.
    :ivar control: the monitor for everything but the measured request.
    :ivar requests: the monitor for the measured request.
    :ivar serial: the host's end of the guest's serial ports.
    :ivar watch: observes the guest's workload.
    :ivar gdbstub: the debugger's end of the connection to QEMU's gdbstub; None if it has none.
    :ivar keyboard: the descriptor on which the keys for QEMU's terminal are written; None if QEMU
        has no terminal.
    """

    manager_version: str | None = None
    """The version of what manages QEMU; None if QEMU runs by itself."""
    restored: bool = False
    """Whether the guest was started from a saved state."""

    def __init__(
        self,
        config: GuestConfig,
        child: process.Child,
        log: Path,
        control: monitor.Monitor,
        requests: RequestLine,
        line: serial.SerialLine,
        gdbstub: GdbStub | None,
        keyboard: int | None,
    ) -> None:
        self.name = config.name
        self.incoming = config.incoming
        self.child = child
        self.control = control
        self.requests = requests
        self.serial = line
        self.watch = config.workload.watch(line, config.shape)
        self.gdbstub = gdbstub
        self.keyboard = keyboard
        self._log = log
        self._in_file = config.memory_file is not None

    async def vcpu_tids(self, deadline: Deadline) -> list[int]:
        """Return the thread id of each vCPU, in the order of the vCPUs.

        query-cpus-fast is used because it does not have to run on the vCPUs themselves.
        """
        cpus = await self.control.execute("query-cpus-fast", deadline=deadline)
        return [int(cpu["thread-id"]) for cpu in sorted(cpus, key=lambda cpu: cpu["cpu-index"])]

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` while QEMU lives.

        :raise GuestDied: QEMU ended before the work was done.
        """
        try:
            return await self.child.during(work, SIGNS_OF_DEATH)
        except process.Ended as end:
            raise self._died(end.status) from None

    def _died(self, status: int) -> GuestDied:
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        if status == -signal.SIGBUS and self._in_file:
            how = "was killed by SIGBUS: a page of its memory could not be read from its file"
        if status == 0:
            # No request to quit was made, and -no-reboot makes QEMU exit if the guest resets.
            how += ", probably because its guest has reset"
        return GuestDied(f"QEMU of {self.name} {how}{last_words(self._log)}.")


OF_LIBVIRT = re.compile(r"^-|\\$|^[\d-]+ [\d:.]+\+0000: ")
"""Lines that libvirtd writes to the log of QEMU: the command line, and events with their times."""


def last_words(log: Path) -> str:
    """Return the last lines that QEMU wrote, as the end of a sentence; "" if it wrote none."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        # QEMU has not started, or the log was in a mount namespace that has ended.
        return ""
    written = [
        line.strip().rstrip(".") for line in lines if line.strip() and not OF_LIBVIRT.search(line)
    ]
    return f": {'; '.join(written[-LAST_LINES:])}" if written else ""


def _terminal(stack: AsyncExitStack) -> tuple[int, int]:
    """Open a pseudo-terminal, and return the keyboard's end and the program's end."""
    ends = pty.openpty()
    for fd in ends:
        stack.callback(os.close, fd)
    return ends


@contextmanager
def _folder(run: Run, name: str) -> Iterator[Path]:
    """Make a folder for what a process leaves in its working directory, and delete it at the end.

    It is in the run's folder, so `kickbench clean` deletes what a killed run leaves.
    """
    folder = run.folder / f"{name}.cwd"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def started(run: Run, config: GuestConfig, deadline: Deadline) -> AsyncIterator[Guest]:
    """Start a guest and connect to it, and end it when the context is left.

    :raise GuestDied: QEMU ended at once; the message has its last lines of output.
    """
    log = run.folder / f"{config.name}.log"
    async with AsyncExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(5)]
        for ours, theirs in pairs:
            stack.callback(ours.close)
            stack.callback(theirs.close)
        fds = [theirs.fileno() for _, theirs in pairs]
        cores = stack.enter_context(_folder(run, config.name)) if config.core else None
        keyboard, screen = _terminal(stack) if config.terminal else (None, None)
        child = stack.enter_context(
            process.started(
                command_line(config, *fds),
                env=run.mark,
                output=log,
                netns_fd=config.netns_fd,
                pass_fds=fds,
                terminal_fd=screen,
                folder=cores,
            )
        )
        stack.callback(log.unlink, missing_ok=True)
        for _, theirs in pairs:
            theirs.close()
        marks_end, text_end, control_end, requests_end, gdbstub_end = (ours for ours, _ in pairs)
        line = await serial.SerialLine.open(marks_end, text_end)
        stack.callback(line.close)
        control = monitor.Monitor(f"{config.name}/control")
        requests = RequestLine(f"{config.name}/requests", requests_end)
        gdbstub = GdbStub(config.name, gdbstub_end) if config.gdbstub else None
        guest = Guest(config, child, log, control, requests, line, gdbstub, keyboard)
        stack.push_async_callback(control.disconnect)

        async def connect() -> None:
            await together(
                guest.control.connect(control_end, deadline),
                guest.requests.connect(deadline),
            )

        await guest.during(connect())
        yield guest
