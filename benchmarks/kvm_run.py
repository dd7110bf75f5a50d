# SPDX-License-Identifier: BSD-3-Clause
"""KVM_RUN, without QEMU."""

from bench_lib.asv_bridge import probe_suite
from bench_lib.kvm.probe import Result


class Wake(probe_suite.ProbeSuite):
    """The time from a signal to a stuck vCPU until KVM_RUN has returned to user mode."""

    def setup_cache(self) -> dict[str, Result]:
        return self.measure()
