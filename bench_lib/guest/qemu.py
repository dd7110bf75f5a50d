# SPDX-License-Identifier: BSD-3-Clause
"""A guest: QEMU's command line, its process, and the lines into it."""

from __future__ import annotations

import os
import pty
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench_lib import architecture, process
from bench_lib.deadline import Deadline, together
from bench_lib.errors import DebuggerFailed, GuestDied, MigrationFailed, MonitorFailed
from bench_lib.guest import monitor, serial
from bench_lib.guest.gdbstub import GdbStub
from bench_lib.guest.request_line import RequestLine
from bench_lib.guest.workloads.workload import Workload
from bench_lib.ownership import Run
from bench_lib.record import Backing, Shape

T = TypeVar("T")

SIGNS_OF_DEATH = (MonitorFailed, GuestDied, DebuggerFailed, MigrationFailed)
"""What may be seen of a dying QEMU before its exit is: a closed monitor, a missing thread, nothing
that a debugger could trace, and at the other end a migration that has failed."""

LAST_LINES = 4
"""Of what QEMU wrote. It gives the cause of a migration's failure first and the failure last."""


@dataclass(frozen=True)
class GuestConfig:
    """What to start.

    :ivar name: unique on this host.
    :ivar incoming: wait for a migration.
    :ivar terminal: in the foreground of a terminal of its own.
    :ivar gdbstub: with a debugger's connection to the guest.
    """

    name: str
    qemu: str
    workload: Workload
    shape: Shape
    incoming: bool = False
    netns_fd: int | None = None
    terminal: bool = False
    gdbstub: bool = False


def _memory(shape: Shape) -> list[str]:
    """What makes the guest's memory what the shape says; nothing for QEMU's own default."""
    if shape.backing is Backing.ANONYMOUS:
        return []
    size = f"{architecture.for_trials().huge_page_mib}M"
    huge = f",hugetlb=on,hugetlbsize={size}" if shape.backing is Backing.HUGETLB else ""
    memory = f"memory-backend-memfd,id=memory,size={shape.memory_mib}M,share=on{huge}"
    return ["-object", memory, "-machine", "memory-backend=memory"]


def command_line(
    config: GuestConfig, serial_fd: int, control_fd: int, requests_fd: int, gdbstub_fd: int
) -> list[str]:
    """QEMU's arguments.

    The descriptors are connected sockets: no paths in a file system, nothing to wait for,
    and nobody else can connect.
    """
    ours = architecture.for_trials()
    # fmt: off
    return [
        config.qemu,
        # Which process and which thread is which, for whoever looks at the host.
        "-name", f"guest={config.name},debug-threads=on",
        # No devices but those named here: each costs time at start, and disks would make
        # `stop` wait for their flush.
        "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", ours.machine, "-accel", "kvm",
        "-cpu", ours.cpu,
        "-smp", str(config.shape.vcpus),
        "-m", f"{config.shape.memory_mib}M",
        # A guest that resets is broken; a QEMU that ends is noticed at once.
        "-no-reboot",
        *config.workload.arguments(config.shape),
        "-chardev", f"socket,id=serial,fd={serial_fd}", "-serial", "chardev:serial",
        # Two monitors: one for the measured request, which may block it for ever, and one for
        # everything else.
        "-chardev", f"socket,id=control,fd={control_fd}", "-mon", "chardev=control,mode=control",
        "-chardev", f"socket,id=requests,fd={requests_fd}", "-mon", "chardev=requests,mode=control",
        *_memory(config.shape),
        *(
            ["-chardev", f"socket,id=gdbstub,fd={gdbstub_fd}", "-gdb", "chardev:gdbstub"]
            if config.gdbstub else []
        ),
        *(["-incoming", "defer"] if config.incoming else []),
    ]
    # fmt: on


class Guest:
    """A running QEMU.

    :ivar incoming: whether it was started to wait for a migration.
    :ivar watch: sees how its workload is doing.
    :ivar control: the monitor for staging; `requests` is for the measured request.
    :ivar gdbstub: a debugger's end of the connection to the guest, None where there is none.
    :ivar keyboard: what is written to this descriptor was typed at QEMU's terminal; likewise.
    """

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

    async def vcpu_tids(self, deadline: Deadline) -> list[int]:
        """The thread id of each vCPU, in order of the vCPUs.

        query-cpus-fast is the one such command that does not run on the vCPUs themselves.
        """
        cpus = await self.control.execute("query-cpus-fast", deadline=deadline)
        return [int(cpu["thread-id"]) for cpu in sorted(cpus, key=lambda cpu: cpu["cpu-index"])]

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` for as long as QEMU lives.

        :raise GuestDied: it ended before the work was done.
        """
        try:
            return await self.child.during(work, SIGNS_OF_DEATH)
        except process.Ended as end:
            raise self._died(end.status) from None

    def _died(self, status: int) -> GuestDied:
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        if status == 0:
            # With -no-reboot; nobody has asked it to quit.
            how += ", as when its guest resets"
        return GuestDied(f"QEMU of {self.name} {how}{last_words(self._log)}.")


def last_words(log: Path) -> str:
    """The last lines that QEMU wrote, as the end of a sentence; nothing if it wrote none."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    said = [line.strip().rstrip(".") for line in lines if line.strip()]
    return f": {'; '.join(said[-LAST_LINES:])}" if said else ""


def _terminal(stack: AsyncExitStack) -> tuple[int, int]:
    """A pseudo-terminal: its keyboard's end and the end of the program at it."""
    ends = pty.openpty()
    for fd in ends:
        stack.callback(os.close, fd)
    return ends


@asynccontextmanager
async def started(run: Run, config: GuestConfig, deadline: Deadline) -> AsyncIterator[Guest]:
    """Start a guest and connect to it; it is ended when the context is left.

    :raise GuestDied: QEMU ended at once; its last words are in the message.
    """
    log = run.folder / f"{config.name}.log"
    async with AsyncExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(4)]
        for ours, theirs in pairs:
            stack.callback(ours.close)
            stack.callback(theirs.close)
        fds = [theirs.fileno() for _, theirs in pairs]
        keyboard, screen = _terminal(stack) if config.terminal else (None, None)
        child = stack.enter_context(
            process.started(
                command_line(config, *fds),
                env=run.mark,
                output=log,
                netns_fd=config.netns_fd,
                pass_fds=fds,
                terminal_fd=screen,
            )
        )
        stack.callback(log.unlink, missing_ok=True)
        for _, theirs in pairs:
            theirs.close()
        serial_end, control_end, requests_end, gdbstub_end = (ours for ours, _ in pairs)
        line = await serial.SerialLine.open(serial_end)
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
