# SPDX-License-Identifier: BSD-3-Clause
"""Runs a trial with a recovery, and changes a page of the guest once the migration completes."""

from __future__ import annotations

import os

from bench_lib.cli import main
from bench_lib.deadline import Deadline
from bench_lib.migration import Migration

PAGE = 0x300000
"""Guest-physical; in the span of the only vCPU."""

_completes = Migration.completes


async def completes(self: Migration, deadline: Deadline) -> int:
    completed_ns = await _completes(self, deadline)
    guest = self.destination.guest
    said = await guest.control.execute(
        "human-monitor-command", {"command-line": f"gpa2hva {PAGE:#x}"}, deadline=deadline
    )
    host_address = int(said.split()[-1], 16)
    memory = os.open(f"/proc/{guest.child.pid}/mem", os.O_RDWR)
    os.pwrite(memory, b"planted!", host_address)
    os.close(memory)
    return completed_ns


Migration.completes = completes  # type: ignore[method-assign]
main(["trial", "--scenario", "paused", "--request", "stop", "--recover"])
