# SPDX-License-Identifier: BSD-3-Clause
"""The list of requests, without the code that makes them."""

from __future__ import annotations

from dataclasses import dataclass

from bench_lib.host.need import Need
from bench_lib.record import RequestName


@dataclass(frozen=True)
class RequestDescription:
    """The description of one request.

    :ivar needs: what a host must have for the request.
    :ivar ends_guest: whether QEMU has ended when the request is answered.
    :ivar terminal: whether QEMU has to be in the foreground of a terminal.
    :ivar gdbstub: whether QEMU has to have a gdbstub.
    """

    needs: frozenset[Need] = frozenset()
    ends_guest: bool = False
    terminal: bool = False
    gdbstub: bool = False


REQUESTS: dict[RequestName, RequestDescription] = {
    RequestName.STOP: RequestDescription(),
    RequestName.CTRL_C: RequestDescription(ends_guest=True, terminal=True),
    RequestName.GDB_ATTACH: RequestDescription(frozenset({Need.GDB, Need.PTRACE_SIBLING})),
    RequestName.PTRACE_INTERRUPT: RequestDescription(frozenset({Need.PTRACE})),
    RequestName.GDBSTUB_BREAK: RequestDescription(gdbstub=True),
    RequestName.SIGTERM: RequestDescription(ends_guest=True),
    RequestName.QUIT: RequestDescription(ends_guest=True),
    RequestName.SIGUSR1: RequestDescription(),
    RequestName.REGISTERS: RequestDescription(),
    RequestName.SIGKILL: RequestDescription(ends_guest=True),
    RequestName.QUERY_STATUS: RequestDescription(),
}
