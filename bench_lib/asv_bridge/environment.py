# SPDX-License-Identifier: BSD-3-Clause
"""What asv's environments of kernels have in common."""

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
    """Runs benchmark processes on this machine, with this very Python.

    What cannot be run, before or while it runs, ends asv: an error that asv catches it would save
    as a failed result over a good one.
    """

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
        self._results = Path(conf.results_dir)
        super().__init__(conf, python, {}, tagged_env_vars)

    @property
    def name(self) -> str:
        """Without asv's version of Python, which would begin a new series with each upgrade."""
        return str(self.tool_name)

    @property
    def requirements(self) -> dict[str, str]:
        """What asv keeps with a result, and has a graph of its own for: which environment it was.

        The name of the environment alone tells results apart, but not graphs.
        """
        return {"environment": self.name}

    @property
    def installed_commit_hash(self) -> str | None:
        return self._installed

    def check_presence(self) -> bool:
        return True

    def create(self) -> None:
        """Nothing: Python is this one."""

    @staticmethod
    def settings() -> Settings:
        """The settings, for the history in this folder, to which asv has gone.

        :raise OtherHistory: they name another.
        """
        return Settings.of_history(Path.cwd())

    @cached_property
    def _lists_full(self) -> bool:
        """Whether benchmarks list all values of their parameters; see `selection`.

        Once for all processes of a run, because asv numbers the values.
        """
        return self.settings().full or selection.holds_full(self._results)

    def benchmark_variables(self) -> dict[str, str]:
        """What else a benchmark process is told."""
        return {}

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run a benchmark process, in another folder than this one, as asv does.

        It ends when asv dies, and leaves word when it could not measure; see `suite`.
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
                **self.benchmark_variables(),
            }
            wrapped = ["setpriv", "--pdeathsig", "TERM", sys.executable, *args]
            try:
                done = util.check_output(wrapped, env=env, **kwargs)
            except KeyboardInterrupt:
                # asv has ended the process by now, and waited for it to clean up.
                refuse("Interrupted; the trials before it are kept.", 128 + signal.SIGINT)
            if failure.exists():
                status, _, sentence = failure.read_text().partition(" ")
                refuse(sentence, int(status))
        return done


def refuse(sentence: str, status: int) -> NoReturn:
    """End asv with a sentence; nothing of the run is saved."""
    log.error(sentence)
    raise SystemExit(status)
