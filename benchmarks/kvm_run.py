# SPDX-License-Identifier: BSD-3-Clause
"""KVM_RUN alone, without QEMU."""

from bench_lib.asv_bridge import probe_suite
from bench_lib.kvm.probe import Result


class Wake(probe_suite.ProbeSuite):
    """Until a stuck vCPU, called by a signal, is back in user mode."""

    def setup_cache(self) -> dict[str, Result]:
        return self.measure()
