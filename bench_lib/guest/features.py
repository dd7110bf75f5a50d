"""What a QEMU can do, asked of itself."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import AsyncExitStack

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import BadShape, MonitorFailed, QemuTooOld
from bench_lib.guest.monitor import Monitor
from bench_lib.guest.qemu import MACHINE, last_words
from bench_lib.ownership import Run
from bench_lib.record import Shape

COMMANDS = {"query-cpus-fast": "2.12", "migrate-start-postcopy": "2.5"}
"""QMP commands that trials use, and the QEMU that each came with (qapi/, "Since")."""

CAPABILITIES = {"postcopy-ram": "2.6", "events": "2.4"}
"""The same for migration capabilities."""


PREEMPT = "postcopy-preempt"
"""A migration capability that some shapes need; from QEMU 7.1 on."""


async def check(run: Run, qemu: str, shapes: Iterable[Shape], deadline: Deadline) -> None:
    """Ask a QEMU without a machine for what trials need.

    :param shapes: of the guests to come.
    :raise BadShape: its machine cannot have so many vCPUs.
    :raise ProgramMissing: there is no such program.
    :raise QemuTooOld: something is not there, or the program does not even answer.
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
        ]
        # fmt: on
        stack.enter_context(
            process.started(
                command,
                env=run.mark,
                output=log,
                pass_fds=[fd],
            )
        )
        theirs.close()
        monitor = Monitor("features")
        stack.push_async_callback(monitor.disconnect)
        try:
            await monitor.connect(ours, deadline)
            commands = await monitor.execute("query-commands", deadline=deadline)
            capabilities = await monitor.execute("query-migrate-capabilities", deadline=deadline)
            machines = await monitor.execute("query-machines", deadline=deadline)
        except MonitorFailed as error:
            raise QemuTooOld(
                f"{qemu} does not answer as later ones do{last_words(log) or f': {error}'}."
            ) from None
    shapes = list(shapes)
    wanted_capabilities = dict(CAPABILITIES)
    if any(shape.preempt for shape in shapes):
        wanted_capabilities[PREEMPT] = "7.1"
    missing = [
        f"{name} (from QEMU {since} on)"
        for wanted, offered in (
            (COMMANDS, {command["name"] for command in commands}),
            (wanted_capabilities, {entry["capability"] for entry in capabilities}),
        )
        for name, since in wanted.items()
        if name not in offered
    ]
    if missing:
        raise QemuTooOld(f"{qemu}, {monitor.qemu_version}, lacks {', '.join(missing)}.")
    (most,) = (each["cpu-max"] for each in machines if MACHINE in {each["name"], each.get("alias")})
    for shape in shapes:
        if shape.vcpus > most:
            raise BadShape(f"{qemu}'s machine {MACHINE} has at most {most} vCPUs.")
