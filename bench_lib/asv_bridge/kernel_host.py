"""asv's environment `kernel-host`: this machine, under the kernel that it was booted with."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from asv import util
from asv.console import log
from asv.environment import Environment

from bench_lib import ownership
from bench_lib.asv_bridge.repo import KernelRepo
from bench_lib.errors import KickbenchError, WrongKernel
from bench_lib.settings import Settings
from bench_lib.trial import preflight


class KernelHost(Environment):  # type: ignore[misc]  # asv has no types
    """Runs benchmarks with this very Python, and refuses every kernel but the booted one.

    What cannot be run is refused by ending asv, not by an error that it would save as a failed
    result over a good one.
    """

    tool_name = "kernel-host"
    matches_python_fallback = False

    def __init__(
        self,
        conf: Any,
        python: str,
        requirements: dict[str, str],
        tagged_env_vars: dict[Any, Any],
    ) -> None:
        self._requirements: dict[str, str] = {}  # asv reads it (through `name`) before it sets it
        self._installed: str | None = None
        super().__init__(conf, python, {}, tagged_env_vars)

    @property
    def installed_commit_hash(self) -> str | None:
        return self._installed

    def check_presence(self) -> bool:
        return True

    def create(self) -> None:
        """Nothing: the kernel is booted, and Python is this one."""

    def install_project(self, conf: Any, repo: KernelRepo, commit_hash: str) -> None:
        """Refuse a run that cannot be done, whole, before any of it is.

        asv calls this for the first kernel of a range before it has run or saved anything, so all
        that the range asks for is looked at.
        """
        foreign = [each for each in [commit_hash, *repo.requested] if each != repo.booted.id]
        if foreign:
            name = repo.get_name_from_hash(foreign[0]) or foreign[0]
            _refuse(
                WrongKernel(
                    f"{name} is not the booted kernel, which is v{repo.booted.release}; "
                    "kernel-host measures no other. Boot it, and run this again."
                )
            )
        try:
            settings = Settings.from_environment()
            preflight.check(settings)
            ownership.refuse_if_busy(settings.runtime)
        except KickbenchError as error:
            _refuse(error)
        self._installed = commit_hash

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run a benchmark process, elsewhere than here, as asv does. It ends if asv dies."""
        env = {
            **kwargs.pop("env", os.environ),
            **self._global_env_vars,
            "KICKBENCH_HISTORY": str(Settings.from_environment().history),
            "KICKBENCH_PROGRESS": f"/proc/{os.getpid()}/fd/2",
        }
        wrapped = ["setpriv", "--pdeathsig", "TERM", sys.executable, *args]
        return util.check_output(wrapped, env=env, **kwargs)


def _refuse(error: KickbenchError) -> NoReturn:
    log.error(str(error))
    raise SystemExit(error.exit_status)
