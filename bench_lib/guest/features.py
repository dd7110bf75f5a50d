# SPDX-License-Identifier: BSD-3-Clause
"""The features of a QEMU, queried through QMP."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
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
"""The QMP commands that trials use, and the QEMU release that introduced each ("Since" in
qapi/)."""

CAPABILITIES = {"postcopy-ram": "2.6", "events": "2.4"}
"""The migration capabilities that trials use, and the QEMU release that introduced each."""


PREEMPT = "postcopy-preempt"
"""The migration capability of shapes with `preempt`; QEMU 7.1 introduced it."""


@dataclass(frozen=True)
class Features:
    """The features that a QEMU reports.

    :ivar version: the version in its QMP greeting.
    :ivar commands: the names of its QMP commands.
    :ivar capabilities: the names of its migration capabilities.
    :ivar max_vcpus: how many vCPUs the machine type of the guests can have.
    """

    version: str
    commands: frozenset[str]
    capabilities: frozenset[str]
    max_vcpus: int

    def missing(self, *, preempt: bool = False) -> list[str]:
        """List the features that trials need and this QEMU lacks.

        :param preempt: whether trials need the capability `postcopy-preempt`.
        """
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


async def check(run: Run, qemu: str, shapes: Iterable[Shape], deadline: Deadline) -> Features:
    """Check that a QEMU has the features that trials need, and return its features.

    :param shapes: the shapes of the guests that will be started.
    :raise BadShape: the machine type cannot have so many vCPUs, or QEMU or KVM refuses a CPU.
    :raise NotStarted: the program starts QEMU as another process.
    :raise ProgramMissing: there is no such program.
    :raise QemuTooOld: QEMU lacks a feature, or does not answer.
    """
    features = await ask(run, qemu, deadline)
    shapes = list(shapes)
    if missing := features.missing(preempt=any(shape.preempt for shape in shapes)):
        raise QemuTooOld(
            f"{qemu} is version {features.version} and lacks {', '.join(missing)}; install a newer "
            "QEMU, or set KICKBENCH_QEMU to one."
        )
    for shape in shapes:
        if shape.vcpus > features.max_vcpus:
            machine = architecture.for_trials().machine
            raise BadShape(
                f"The machine type {machine} of {qemu} has at most {features.max_vcpus} vCPUs, not "
                f"{shape.vcpus}; start the guest with fewer vCPUs."
            )
    # The workloads' own CPUs are not checked, because each start takes time.
    for cpu in sorted({each.cpu for each in shapes if each.cpu is not None}):
        await _check_cpu(run, qemu, cpu, deadline)
    return features


async def _check_cpu(run: Run, qemu: str, cpu: str, deadline: Deadline) -> None:
    """Start a guest that never runs, because KVM refuses some features only when it has a vCPU.

    :raise BadShape: there is no such guest; the message has QEMU's own words.
    """
    log = run.folder / "cpu.log"
    # fmt: off
    arguments = [
        "-machine", architecture.for_trials().machine, "-accel", "kvm", "-cpu", cpu,
        "-m", "16M", "-S",
    ]
    # fmt: on
    async with _started(run, qemu, arguments, log) as (_, monitor, connection):
        try:
            await monitor.connect(connection, deadline)
            # QEMU sends its greeting before it makes the vCPUs, but answers only afterwards.
            await monitor.execute("query-cpus-fast", deadline=deadline)
        except MonitorFailed as error:
            why = last_words(log) or f": {error}".rstrip(".")
            raise BadShape(
                f"{qemu} cannot start a guest with the CPU {cpu}{why}. Choose another model, or "
                f"leave out a feature; `{qemu} -cpu help` lists both."
            ) from None


async def ask(run: Run, qemu: str, deadline: Deadline) -> Features:
    """Start a QEMU without a machine, and query its features.

    :raise NotStarted: the program starts QEMU as another process.
    :raise ProgramMissing: there is no such program.
    :raise QemuTooOld: QEMU does not answer, or lacks the machine type that guests use.
    """
    log = run.folder / "features.log"
    arguments = [
        *("-machine", "none"),
        # QEMU reports the id of this thread, which shows the process that it is in.
        *("-object", "iothread,id=thread"),
    ]
    async with _started(run, qemu, arguments, log) as (child, monitor, connection):
        try:
            await monitor.connect(connection, deadline)
            commands = await monitor.execute("query-commands", deadline=deadline)
            capabilities = await monitor.execute("query-migrate-capabilities", deadline=deadline)
            machines = await monitor.execute("query-machines", deadline=deadline)
            (thread,) = await monitor.execute("query-iothreads", deadline=deadline)
        except MonitorFailed as error:
            raise QemuTooOld(
                f"{qemu} does not answer QMP commands that newer versions answer"
                f"{last_words(log) or f': {error}'.rstrip('.')}. Install a newer QEMU, or set "
                "KICKBENCH_QEMU to one."
            ) from None
        # Trials look at the threads of the process that they start, and they signal and kill it.
        if not Path(f"/proc/{child.pid}/task/{thread['thread-id']}").exists():
            raise NotStarted(
                f"{qemu} starts QEMU as another process, but trials need QEMU to be the process "
                "that they start; if it is a script, start QEMU with exec in it."
            )
    machine = architecture.for_trials().machine
    most = next(
        (each["cpu-max"] for each in machines if machine in {each["name"], each.get("alias")}), None
    )
    if most is None:
        raise QemuTooOld(f"{qemu} has no machine type {machine}; install a QEMU that has it.")
    return Features(
        version=monitor.qemu_version,
        commands=frozenset(each["name"] for each in commands),
        capabilities=frozenset(each["capability"] for each in capabilities),
        max_vcpus=most,
    )


@asynccontextmanager
async def _started(
    run: Run, qemu: str, arguments: Sequence[str], log: Path
) -> AsyncIterator[tuple[process.Child, Monitor, socket.socket]]:
    """Start a QEMU, and end it when the context is left.

    :return: its process, a monitor, and the connection that the monitor is to be connected to.
    :raise ProgramMissing: there is no such program.
    """
    async with AsyncExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        fd = theirs.fileno()
        # fmt: off
        command = [
            qemu, "-no-user-config", "-nodefaults", "-display", "none", *arguments,
            "-chardev", f"socket,id=control,fd={fd}", "-mon", "chardev=control,mode=control",
        ]
        # fmt: on
        started = process.started(command, env=run.mark, output=log, pass_fds=[fd])
        child = stack.enter_context(started)
        theirs.close()
        monitor = Monitor("features")
        stack.push_async_callback(monitor.disconnect)
        yield child, monitor, ours
