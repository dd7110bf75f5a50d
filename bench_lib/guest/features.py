"""What a QEMU can do, asked of itself."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import MonitorFailed, QemuTooOld
from bench_lib.guest.monitor import Monitor
from bench_lib.guest.qemu import last_words
from bench_lib.ownership import Run

COMMANDS = {"query-cpus-fast": "2.12", "migrate-start-postcopy": "2.5"}
"""QMP commands that trials use, and the QEMU that each came with (qapi/, "Since")."""

CAPABILITIES = {"postcopy-ram": "2.6", "events": "2.4"}
"""The same for migration capabilities."""


async def check(run: Run, qemu: str, deadline: Deadline) -> None:
    """Ask a QEMU without a machine for what trials need.

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
        except MonitorFailed as error:
            raise QemuTooOld(
                f"{qemu} does not answer as later ones do{last_words(log) or f': {error}'}."
            ) from None
    missing = [
        f"{name} (from QEMU {since} on)"
        for wanted, offered in (
            (COMMANDS, {command["name"] for command in commands}),
            (CAPABILITIES, {entry["capability"] for entry in capabilities}),
        )
        for name, since in wanted.items()
        if name not in offered
    ]
    if missing:
        raise QemuTooOld(f"{qemu}, {monitor.qemu_version}, lacks {', '.join(missing)}.")
