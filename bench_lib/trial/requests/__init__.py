"""What an operator asks of a guest, and how long each took.

A clock is read where a request leaves and where its answer arrives (`guest.request_line`,
`guest.gdbstub`, `guest.debugger`, `process`), for whatever lies between there and here would be
ours and not the host's.
"""

from __future__ import annotations

from bench_lib.record import RequestName
from bench_lib.trial.requests.asking import Asking, Reply
from bench_lib.trial.requests.debuggers import GdbAttach, GdbstubBreak, PtraceInterrupt
from bench_lib.trial.requests.endings import CtrlC, Quit, Sigkill, Sigterm
from bench_lib.trial.requests.monitors import QueryStatus, Registers, Stop
from bench_lib.trial.requests.signals import Sigusr1

REQUESTS: dict[RequestName, type[Asking]] = {
    RequestName.STOP: Stop,
    RequestName.CTRL_C: CtrlC,
    RequestName.GDB_ATTACH: GdbAttach,
    RequestName.PTRACE_INTERRUPT: PtraceInterrupt,
    RequestName.GDBSTUB_BREAK: GdbstubBreak,
    RequestName.SIGTERM: Sigterm,
    RequestName.QUIT: Quit,
    RequestName.SIGUSR1: Sigusr1,
    RequestName.REGISTERS: Registers,
    RequestName.SIGKILL: Sigkill,
    RequestName.QUERY_STATUS: QueryStatus,
}
"""How each is made."""

__all__ = ["REQUESTS", "Asking", "Reply"]
