# SPDX-License-Identifier: BSD-3-Clause
"""The signals of a run, and of the programs that it starts."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from bench_lib import interrupt, process
from bench_lib.ownership import MARK

PATIENCE_S = 60


@pytest.fixture(params=["SIGQUIT", *(each.name for each in interrupt.SIGNALS)])
def ignored(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that this process ignores, as a background job of a shell or of nohup does."""
    number = signal.Signals[request.param]
    before = signal.signal(number, signal.SIG_IGN)
    yield number
    signal.signal(number, before)


def _signalled(number: signal.Signals) -> int | None:
    """The exit status of a program that sends itself a signal."""
    argv = ["sh", "-c", f"ulimit -c 0; kill -{int(number)} $$; exit 3"]
    with process.started(argv, env={MARK: "8123456789ab"}, output=subprocess.DEVNULL) as child:
        assert child.reaped_within(PATIENCE_S)
        return child.exit_status


def test_a_program_of_a_run_takes_a_signal_that_the_run_was_told_to_ignore(
    ignored: signal.Signals,
) -> None:
    async def work() -> int | None:
        return _signalled(ignored)

    assert interrupt.run(work()) == -ignored
    with interrupt.raised():
        assert _signalled(ignored) == -ignored


def test_a_run_that_ignores_sigquit_is_not_ended_by_it() -> None:
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        with interrupt.raised():
            signal.raise_signal(signal.SIGQUIT)
        assert signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGQUIT, before)
