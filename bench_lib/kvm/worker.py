# SPDX-License-Identifier: BSD-3-Clause
"""The process that a vCPU is stuck in: alone, so that it can be killed, and with one thread.

    python -m bench_lib.kvm.worker PROGRAM BACKING MODE [traced]

Runs the vCPU; whenever a signal has called it back, takes the signal, writes the moment to stdout
(a byte 0, and nanoseconds on the monotonic clock in 8 more), and runs it again. The first moment is
0: it is about to run for the first time. What it cannot do it says as text, and exits with 1.
What calls it back without a signal (a tracer, a stop and its end) counts only if it is `traced`.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys

from bench_lib.errors import KickbenchError, ProbeFailed
from bench_lib.kvm import vcpu
from bench_lib.kvm.userfault import Undelivered
from bench_lib.record import Backing

SIGNALS = (signal.SIGUSR1, signal.SIGINT)

PROGRAMS = {
    "read": vcpu.READ,
    "write": vcpu.WRITE,
    "interrupts": vcpu.WRITE_WITH_INTERRUPTS,
    "string": vcpu.STRING_OUT,
    "spin": vcpu.SPIN,
}

MOMENT = struct.Struct("<BQ")
"""What is written; no text begins with a 0."""

PRESENT = "present"
"""The mode of memory that is all there."""


def main(program: str, backing: str, mode: str, traced: str = "") -> None:
    """Run the vCPU until this process is killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if mode == PRESENT:
        memory = mmap.mmap(-1, vcpu.HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        undelivered = Undelivered(Backing(backing), mode)
        memory = undelivered.memory
    machine = vcpu.VirtualMachine(PROGRAMS[program], memory)
    machine.unblock(SIGNALS)
    parent = os.getppid()
    os.write(1, MOMENT.pack(0, 0))
    while True:
        back_ns = machine.run()
        # Before it is told: the next signal, if it came now, would be taken with this one.
        taken = signal.sigtimedwait(SIGNALS, 0)
        if taken is not None and taken.si_pid != parent:
            raise ProbeFailed(
                f"Process {taken.si_pid} signalled the worker too, so nobody can tell whose wake "
                "it was."
            )
        if taken is not None or traced:
            os.write(1, MOMENT.pack(0, back_ns))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (KickbenchError, OSError) as error:
        sys.exit(str(error))
