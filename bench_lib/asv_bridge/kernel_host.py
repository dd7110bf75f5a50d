# SPDX-License-Identifier: BSD-3-Clause
"""asv's environment `kernel-host`: this machine under its booted kernel."""

from __future__ import annotations

from typing import Any

from bench_lib import ownership
from bench_lib.asv_bridge.environment import KernelEnvironment, refuse
from bench_lib.asv_bridge.repo import KernelRepo
from bench_lib.errors import KickbenchError, WrongKernel
from bench_lib.trial import preflight


class KernelHost(KernelEnvironment):
    """The environment that measures the booted kernel and refuses every other one."""

    tool_name = "kernel-host"

    def install_project(self, conf: Any, repo: KernelRepo, commit_hash: str) -> None:
        """Check a run before it starts, and refuse it if it cannot be completed.

        asv calls this for the first kernel of a run before it has measured or saved anything. So
        this checks every kernel that asv has requested from the repository.
        """
        others = [each for each in [commit_hash, *repo.requested] if each != repo.booted.id]
        if others:
            name = repo.get_name_from_hash(others[0]) or others[0]
            refuse(
                f"{name} is not the booted kernel, which is v{repo.booted.release}; "
                "kernel-host measures only the booted kernel; boot that one, and run asv again.",
                WrongKernel.exit_status,
            )
        try:
            settings = self.settings()
            preflight.check(settings)
            ownership.refuse_if_busy(settings.runtime)
        except KickbenchError as error:
            refuse(str(error), error.exit_status)
        self._installed = commit_hash
