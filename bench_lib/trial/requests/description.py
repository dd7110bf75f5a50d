# SPDX-License-Identifier: BSD-3-Clause
"""The list of requests, without the code that makes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench_lib.host.need import Need
from bench_lib.record import ManagerName, RequestName
from bench_lib.settings import Settings


@dataclass(frozen=True)
class RequestDescription:
    """The description of one request.

    :ivar needs: what a host must have for the request.
    :ivar ends_guest: whether QEMU has ended when the request is answered.
    :ivar terminal: whether QEMU has to be in the foreground of a terminal.
    :ivar manager: the only manager that has the request; None for a request to QEMU itself.
    :ivar deadline_s: the default deadline of the request; None for the usual one.
    :ivar takes_s: how many seconds QEMU takes for it by design. The answer has them in its time,
        and every deadline is longer by them.
    :ivar to_source: whether the source of a migration answers it, so that no thread of the
        destination's QEMU can be to blame for a hang.
    :ivar gdbstub: whether QEMU has to have a gdbstub.
    :ivar stops_guest: whether the guest is stopped when the request is granted.
    :ivar core: whether QEMU has to keep the core that it dumps.
    :ivar memory_slot: whether QEMU has to have a slot for one more memory module.
    :ivar freezes: whether QEMU's program does not run after the request.
    :ivar without_qemu: whether the kernel answers it without QEMU's program, so that a thread of
        QEMU can delay the answer only by a lock that it holds or by not ending.
    """

    needs: frozenset[Need] = frozenset()
    ends_guest: bool = False
    terminal: bool = False
    gdbstub: bool = False
    stops_guest: bool = False
    core: bool = False
    memory_slot: bool = False
    freezes: bool = False
    without_qemu: bool = False
    manager: ManagerName | None = None
    deadline_s: float | None = None
    takes_s: float = 0.0
    to_source: bool = False

    def offered_by(self, manager: ManagerName) -> bool:
        """Whether the request can be made to a guest that this manager runs."""
        if self.manager is not None:
            return self.manager is manager
        # libvirt's QEMU is not in the foreground of a terminal.
        return not (self.terminal and manager is ManagerName.LIBVIRT)


LIBVIRT_DEADLINE_S = 60.0
"""libvirt refuses a call that waits for another one after 30 s, and gives a kill up after 40 s."""

DIRTY_RATE_S = 1
"""How many seconds `calc-dirty-rate` lets the guest write. It takes only whole seconds."""

_LIBVIRT = RequestDescription(manager=ManagerName.LIBVIRT, deadline_s=LIBVIRT_DEADLINE_S)

REQUESTS: dict[RequestName, RequestDescription] = {
    RequestName.STOP: RequestDescription(stops_guest=True),
    RequestName.CTRL_C: RequestDescription(ends_guest=True, terminal=True),
    RequestName.GDB_ATTACH: RequestDescription(frozenset({Need.GDB, Need.PTRACE_SIBLING})),
    RequestName.PTRACE_INTERRUPT: RequestDescription(frozenset({Need.PTRACE})),
    RequestName.GDBSTUB_BREAK: RequestDescription(gdbstub=True, stops_guest=True),
    RequestName.SIGTERM: RequestDescription(ends_guest=True),
    RequestName.QUIT: RequestDescription(ends_guest=True),
    RequestName.SIGUSR1: RequestDescription(),
    RequestName.REGISTERS: RequestDescription(),
    RequestName.SIGKILL: RequestDescription(ends_guest=True, without_qemu=True),
    RequestName.QUERY_STATUS: RequestDescription(),
    RequestName.PROC_MAPS: RequestDescription(without_qemu=True),
    RequestName.PS: RequestDescription(frozenset({Need.PS}), without_qemu=True),
    RequestName.CGROUP_FREEZE: RequestDescription(
        frozenset({Need.FREEZER}), freezes=True, manager=ManagerName.QEMU
    ),
    RequestName.CORE_DUMP: RequestDescription(
        frozenset({Need.CORE_DUMPS}), ends_guest=True, core=True, manager=ManagerName.QEMU
    ),
    RequestName.PLUG_MEMORY: RequestDescription(memory_slot=True, manager=ManagerName.QEMU),
    RequestName.DIRTY_RATE: RequestDescription(takes_s=DIRTY_RATE_S),
    RequestName.VIRT_SUSPEND: replace(_LIBVIRT, stops_guest=True),
    RequestName.VIRT_DESTROY: replace(_LIBVIRT, ends_guest=True),
    RequestName.VIRT_DESTROY_GRACEFUL: replace(_LIBVIRT, ends_guest=True),
    RequestName.VIRT_ABORT: replace(_LIBVIRT, to_source=True),
    RequestName.VIRT_REBOOT_DAEMON: _LIBVIRT,
    RequestName.VIRT_DOMSTATE: _LIBVIRT,
}


def deadline_s(name: RequestName, settings: Settings) -> float:
    """Return how many seconds a trial waits for the answer to a request."""
    description = REQUESTS[name]
    return settings.deadline_of(description.deadline_s) + description.takes_s


def offered_by(manager: ManagerName) -> list[RequestName]:
    """The requests that can be made to a guest that this manager runs, in the order of tables."""
    return [name for name in RequestName if REQUESTS[name].offered_by(manager)]
