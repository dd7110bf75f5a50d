# SPDX-License-Identifier: BSD-3-Clause
"""asv's environment `kernel-lab`: any kernel, booted in the lab."""

from __future__ import annotations

from typing import Any

from bench_lib import ownership
from bench_lib.asv_bridge.environment import KernelEnvironment, refuse
from bench_lib.asv_bridge.repo import KernelRepo
from bench_lib.errors import KickbenchError, UnknownKernel
from bench_lib.kernel.store import Store
from bench_lib.lab import qemu


class KernelLab(KernelEnvironment):
    """An environment that boots the kernel that asv requests, once per set of trials.

    Only the trials run in the lab. Benchmark processes and asv itself run on the host.
    """

    tool_name = "kernel-lab"

    @property
    def name(self) -> str:
        """The name with the accelerator, so that tcg and kvm have separate series of numbers."""
        return f"{self.tool_name}-{qemu.accelerator()}"

    def install_project(self, conf: Any, repo: KernelRepo, commit_hash: str) -> None:
        """Refuse a run before any part of it is done, if a kernel of it cannot be booted."""
        try:
            settings = self.settings()
            store = Store.of(settings)
            for each in [commit_hash, *repo.requested]:
                build = repo.build(each)
                if store.find_build(build) is None:
                    raise UnknownKernel(
                        f"The lab has no image of v{build.release}; fetch it with `kickbench "
                        f"kernels fetch {build.release}`, or add it with `kickbench kernels add`."
                    )
            qemu.check_memory(settings)
            ownership.refuse_if_busy(settings.runtime)
        except KickbenchError as error:
            refuse(str(error), error.exit_status)
        self._installed = commit_hash

    def benchmark_variables(self) -> dict[str, str]:
        """Return the variable that names the kernel to measure."""
        return {"KICKBENCH_KERNEL": self._installed or ""}
