# SPDX-License-Identifier: BSD-3-Clause
"""The base of asv's environments `kernel-host`, `kernel-lab` and `kernel-fleet`."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from asv import util
from asv.console import log
from asv.environment import Environment

from bench_lib.asv_bridge import selection
from bench_lib.settings import Settings


class KernelEnvironment(Environment):  # type: ignore[misc]  # asv has no types
    """An environment that runs benchmark processes on this machine, with the Python that runs asv.

    If a benchmark cannot be run, asv ends. If asv caught an error instead, it would save a failed
    result over a good one.
    """

    matches_python_fallback = False

    kept = "the trials that were finished are kept"
    """What an interrupted run leaves, in words."""

    def __init__(
        self,
        conf: Any,
        python: str,
        requirements: dict[str, str],
        tagged_env_vars: dict[Any, Any],
    ) -> None:
        self._requirements: dict[str, str] = {}  # asv reads this attribute before it sets it.
        self._installed: str | None = None
        self._results = Path(conf.results_dir)
        super().__init__(conf, python, {}, tagged_env_vars)

    @property
    def name(self) -> str:
        """The name without the version of Python, so that an upgrade starts no new series."""
        return str(self.tool_name)

    @property
    def requirements(self) -> dict[str, str]:
        """The environment as a requirement, so that asv keeps a graph for each environment.

        asv separates results by the name of the environment, but graphs only by requirements.
        """
        return {"environment": self.name}

    @property
    def installed_commit_hash(self) -> str | None:
        return self._installed

    def check_presence(self) -> bool:
        return True

    def create(self) -> None:
        """Do nothing, because benchmarks run with the Python that runs asv."""

    @staticmethod
    def settings() -> Settings:
        """Return the settings for the history in the current folder, into which asv has changed.

        :raise OtherHistory: the settings name another history.
        """
        return Settings.of_history(Path.cwd())

    @cached_property
    def _lists_full(self) -> bool:
        """Whether benchmarks list all values of their parameters; see `selection`.

        This is decided once for all processes of a run, because asv numbers the values.
        """
        return self.settings().full or selection.holds_full(self._results)

    def benchmark_variables(self) -> dict[str, str]:
        """Return further environment variables for benchmark processes."""
        return {}

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run a benchmark process as asv does, but outside of the current folder.

        The process ends when asv dies, and reports in a file if it could not measure; see `suite`.
        """
        settings = self.settings()
        with tempfile.TemporaryDirectory() as folder:
            failure = Path(folder) / "failure"
            env = {
                **kwargs.pop("env", os.environ),
                **self._global_env_vars,
                **settings.exported(),
                "KICKBENCH_LISTED": "full" if self._lists_full else "core",
                "KICKBENCH_PROGRESS": f"/proc/{os.getpid()}/fd/2",
                "KICKBENCH_FAILURE": str(failure),
                # It means the host for `kernel-fleet` alone, and the user may have set it.
                "KICKBENCH_FLEET_HOST": "",
                **self.benchmark_variables(),
            }
            wrapped = ["setpriv", "--pdeathsig", "TERM", sys.executable, *args]
            try:
                done = util.check_output(wrapped, env=env, **kwargs)
            except KeyboardInterrupt:
                # asv has ended the process by now, and waited for it to clean up.
                refuse(f"Interrupted; {self.kept}.", 128 + signal.SIGINT)
            if failure.exists():
                status, _, sentence = failure.read_text().partition(" ")
                refuse(sentence, int(status))
        return done


def refuse(sentence: str, status: int) -> NoReturn:
    """End asv with a sentence and an exit status, without saving anything of the run."""
    log.error(sentence)
    raise SystemExit(status)
