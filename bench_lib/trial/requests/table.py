# SPDX-License-Identifier: BSD-3-Clause
"""The class of each request."""

from __future__ import annotations

from bench_lib.record import RequestName
from bench_lib.trial.requests import virt
from bench_lib.trial.requests.debuggers import GdbAttach, GdbstubBreak, PtraceInterrupt
from bench_lib.trial.requests.endings import CoreDump, CtrlC, Quit, Sigkill, Sigterm
from bench_lib.trial.requests.freezing import CgroupFreeze
from bench_lib.trial.requests.looks import ProcMaps, Ps
from bench_lib.trial.requests.monitors import DirtyRate, PlugMemory, QueryStatus, Registers, Stop
from bench_lib.trial.requests.request import Request
from bench_lib.trial.requests.signals import Sigusr1

MAKERS: dict[RequestName, type[Request]] = {
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
    RequestName.PROC_MAPS: ProcMaps,
    RequestName.PS: Ps,
    RequestName.CGROUP_FREEZE: CgroupFreeze,
    RequestName.CORE_DUMP: CoreDump,
    RequestName.PLUG_MEMORY: PlugMemory,
    RequestName.DIRTY_RATE: DirtyRate,
    RequestName.VIRT_SUSPEND: virt.VirtSuspend,
    RequestName.VIRT_DESTROY: virt.VirtDestroy,
    RequestName.VIRT_DESTROY_GRACEFUL: virt.VirtDestroyGraceful,
    RequestName.VIRT_ABORT: virt.VirtAbort,
    RequestName.VIRT_REBOOT_DAEMON: virt.VirtRebootDaemon,
    RequestName.VIRT_DOMSTATE: virt.VirtDomstate,
}
