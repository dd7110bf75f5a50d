# SPDX-License-Identifier: BSD-3-Clause
"""ptrace on the vCPU threads."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class PtraceInterrupt(suite.RequestSuite):
    """The time until every vCPU thread has stopped after PTRACE_SEIZE and PTRACE_INTERRUPT."""

    request = RequestName.PTRACE_INTERRUPT

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
