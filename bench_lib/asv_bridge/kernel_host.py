"""asv's environment `kernel-host`: this machine, under the kernel that it was booted with."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import tempfile
from pathlib import Path
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

    What cannot be run, before or while it runs, ends asv: an error that asv catches it would save
    as a failed result over a good one.
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
    def name(self) -> str:
        """Without asv's version of Python, which would begin a new series with each upgrade."""
        return self.tool_name

    @property
    def installed_commit_hash(self) -> str | None:
        return self._installed

    def check_presence(self) -> bool:
        return True

    def create(self) -> None:
        """Nothing: the kernel is booted, and Python is this one."""

    def install_project(self, conf: Any, repo: KernelRepo, commit_hash: str) -> None:
        """Refuse a run that cannot be done, whole, before any of it is.

        asv calls this for the first kernel of a run before it has measured or saved anything. So
        all that it has asked the repository for is looked at, not only this kernel.
        """
        foreign = [each for each in [commit_hash, *repo.requested] if each != repo.booted.id]
        if foreign:
            name = repo.get_name_from_hash(foreign[0]) or foreign[0]
            _refuse(
                f"{name} is not the booted kernel, which is v{repo.booted.release}; "
                "kernel-host measures no other. Boot it, and run this again.",
                WrongKernel.exit_status,
            )
        try:
            settings = Settings.from_environment()
            preflight.check(settings)
            ownership.refuse_if_busy(settings.runtime)
        except KickbenchError as error:
            _refuse(str(error), error.exit_status)
        self._installed = commit_hash

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run a benchmark process, in another folder than this one, as asv does.

        It ends when asv dies, and leaves word when it could not measure; see `suite`.
        """
        settings = dataclasses.replace(Settings.from_environment(), history=Path.cwd())
        with tempfile.TemporaryDirectory() as folder:
            failure = Path(folder) / "failure"
            env = {
                **kwargs.pop("env", os.environ),
                **self._global_env_vars,
                **settings.exported(),
                "KICKBENCH_PROGRESS": f"/proc/{os.getpid()}/fd/2",
                "KICKBENCH_FAILURE": str(failure),
            }
            wrapped = ["setpriv", "--pdeathsig", "TERM", sys.executable, *args]
            try:
                done = util.check_output(wrapped, env=env, **kwargs)
            except KeyboardInterrupt:
                # asv has ended the process by now, and waited for it to clean up.
                _refuse("Interrupted; the trials before it are kept.", 128 + signal.SIGINT)
            if failure.exists():
                status, _, sentence = failure.read_text().partition(" ")
                _refuse(sentence, int(status))
        return done


def _refuse(sentence: str, status: int) -> NoReturn:
    log.error(sentence)
    raise SystemExit(status)
