"""QMP `quit`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, Request


class Quit(suite.RequestSuite):
    """Until QEMU is reaped."""

    request = Request.QUIT

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
