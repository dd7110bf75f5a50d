"""SIGUSR1, the bare kick of a vCPU."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, Request


class Sigusr1(suite.RequestSuite):
    """Until every vCPU thread has left the fault to take the signal."""

    request = Request.SIGUSR1

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
