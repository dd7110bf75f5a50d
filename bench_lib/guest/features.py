# SPDX-License-Identifier: BSD-3-Clause
"""What a QEMU can do, asked of itself."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench_lib import architecture, process
from bench_lib.deadline import Deadline
from bench_lib.errors import BadShape, MonitorFailed, NotStarted, QemuTooOld
from bench_lib.guest.monitor import Monitor
from bench_lib.guest.qemu import last_words
from bench_lib.ownership import Run
from bench_lib.record import Shape

COMMANDS = {"query-cpus-fast": "2.12", "migrate-start-postcopy": "2.5"}
"""QMP commands that trials use, and the QEMU that each came with (qapi/, "Since")."""

CAPABILITIES = {"postcopy-ram": "2.6", "events": "2.4"}
"""The same for migration capabilities."""


PREEMPT = "postcopy-preempt"
"""A migration capability that some shapes need; from QEMU 7.1 on."""


@dataclass(frozen=True)
class Features:
    """What a QEMU said that it can do.

    :ivar version: as in its greeting.
    :ivar max_vcpus: of the machine that guests have.
    """

    version: str
    commands: frozenset[str]
    capabilities: frozenset[str]
    max_vcpus: int

    def missing(self, *, preempt: bool = False) -> list[str]:
        """What trials need and it has not; with the capability for preemption if asked."""
        wanted_capabilities = {**CAPABILITIES, **({PREEMPT: "7.1"} if preempt else {})}
        return [
            f"{name} (from QEMU {since} on)"
            for wanted, offered in (
                (COMMANDS, self.commands),
                (wanted_capabilities, self.capabilities),
            )
            for name, since in wanted.items()
            if name not in offered
        ]


async def check(run: Run, qemu: str, shapes: Iterable[Shape], deadline: Deadline) -> None:
    """Ask a QEMU for what trials need.

    :param shapes: of the guests to come.
    :raise BadShape: its machine cannot have so many vCPUs.
    :raise NotStarted: the program starts QEMU as another process.
    :raise ProgramMissing: there is no such program.
    :raise QemuTooOld: something is not there, or the program does not even answer.
    """
    features = await ask(run, qemu, deadline)
    shapes = list(shapes)
    if missing := features.missing(preempt=any(shape.preempt for shape in shapes)):
        raise QemuTooOld(f"{qemu}, {features.version}, lacks {', '.join(missing)}.")
    for shape in shapes:
        if shape.vcpus > features.max_vcpus:
            machine = architecture.for_trials().machine
            raise BadShape(f"{qemu}'s machine {machine} has at most {features.max_vcpus} vCPUs.")


async def ask(run: Run, qemu: str, deadline: Deadline) -> Features:
    """Start a QEMU without a machine and ask it.

    :raise NotStarted: the program starts QEMU as another process.
    :raise ProgramMissing: there is no such program.
    :raise QemuTooOld: it does not answer, or does not emulate the machine of our guests.
    """
    log = run.folder / "features.log"
    async with AsyncExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        fd = theirs.fileno()
        # fmt: off
        command = [
            qemu, "-no-user-config", "-nodefaults", "-display", "none", "-machine", "none",
            "-chardev", f"socket,id=control,fd={fd}", "-mon", "chardev=control,mode=control",
            # A thread whose id QEMU gives.
            "-object", "iothread,id=thread",
        ]
        # fmt: on
        started = process.started(command, env=run.mark, output=log, pass_fds=[fd])
        child = stack.enter_context(started)
        theirs.close()
        monitor = Monitor("features")
        stack.push_async_callback(monitor.disconnect)
        try:
            await monitor.connect(ours, deadline)
            commands = await monitor.execute("query-commands", deadline=deadline)
            capabilities = await monitor.execute("query-migrate-capabilities", deadline=deadline)
            machines = await monitor.execute("query-machines", deadline=deadline)
            (thread,) = await monitor.execute("query-iothreads", deadline=deadline)
        except MonitorFailed as error:
            raise QemuTooOld(
                f"{qemu} does not answer as later ones do{last_words(log) or f': {error}'}."
            ) from None
        # Trials look at the threads of the process that they start, and signal and end it.
        if not Path(f"/proc/{child.pid}/task/{thread['thread-id']}").exists():
            raise NotStarted(
                f"{qemu} starts QEMU as another process, and trials need the one that they start; "
                "if it is a script, let it start QEMU with exec."
            )
    machine = architecture.for_trials().machine
    most = next(
        (each["cpu-max"] for each in machines if machine in {each["name"], each.get("alias")}), None
    )
    if most is None:
        raise QemuTooOld(f"{qemu} has no machine {machine}.")
    return Features(
        version=monitor.qemu_version,
        commands=frozenset(each["name"] for each in commands),
        capabilities=frozenset(each["capability"] for each in capabilities),
        max_vcpus=most,
    )
