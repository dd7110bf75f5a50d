# SPDX-License-Identifier: BSD-3-Clause
"""The probe as asv runs it: one run of it, two numbers of each case."""

from __future__ import annotations

from collections.abc import Sequence

from bench_lib import interrupt, ownership
from bench_lib.asv_bridge.progress import Progress
from bench_lib.asv_bridge.suite import asked_for, failure_told, silence_s
from bench_lib.errors import ProbeFailed
from bench_lib.kvm import probe
from bench_lib.kvm.probe import CASES, ProbeCase, Result
from bench_lib.lab import probing
from bench_lib.record import HUNG, SCORED, Outcome
from bench_lib.settings import Settings
from bench_lib.units import NS_PER_S

WAKES = 200
"""Of each case; asv keeps them all."""

DEADLINE_S = 1.0
"""Until a wake has hung."""


class ProbeSuite:
    """Base of a benchmark class, which defines `setup_cache` as ``return self.measure()``.

    A wake that hung is stored at its deadline and counted beside it, as requests are.
    """

    params = tuple(case.name for case in CASES)
    param_names = ("case",)
    version = "2"

    @property
    def timeout(self) -> float:
        """Seconds; see `silence_s`."""
        return silence_s(Settings.from_environment())

    def measure(self) -> dict[str, Result]:
        """Probe every case; what became of each by its name.

        :raise KickbenchError: that could not be done, or gave no measurement of any case. Word of
            it is left for asv's environment, so that nothing is saved.
        """
        settings = Settings.from_environment()
        with failure_told(settings):
            results = {each.case: each for each in _run(settings, CASES)}
            # Once more, so that what a moment's disturbance has lost is not missing in a history.
            if again := [each for each in CASES if results[each.name].outcome is Outcome.LOST]:
                results |= {each.case: each for each in _run(settings, again)}
            if not any(each.outcome in SCORED for each in results.values()):
                reasons = dict.fromkeys(f"{each.case}: {each.reason}" for each in results.values())
                raise ProbeFailed(f"No case gave a measurement: {' '.join(reasons)}")
        return results

    def setup(self, results: dict[str, Result], case: str) -> None:
        """Leave out what cannot be measured here, as asv wants to be told of it."""
        if results[case].outcome not in SCORED:
            raise NotImplementedError(results[case].reason)

    def track_wake(self, results: dict[str, Result], case: str) -> dict[str, object] | float:
        """Time from the signal until KVM_RUN is back, a sample a wake."""
        result = results[case]
        if result.outcome in HUNG:
            return DEADLINE_S
        return {"samples": [each / NS_PER_S for each in result.wakes_ns], "number": 1}

    track_wake.unit = "seconds"  # type: ignore[attr-defined]

    def track_hung(self, results: dict[str, Result], case: str) -> int:
        """Whether the vCPU did not come back before the deadline."""
        return int(results[case].outcome in HUNG)

    track_hung.unit = "cases"  # type: ignore[attr-defined]


def _run(settings: Settings, cases: Sequence[ProbeCase]) -> list[Result]:
    """Under the booted kernel, or in the lab under the one that asv asks for."""
    progress = Progress(settings.progress, len(cases))
    kernel = asked_for(settings)
    try:
        if kernel is None:
            with interrupt.raised(), ownership.measuring(settings.runtime) as owner:
                return probe.run(
                    owner, cases, WAKES, DEADLINE_S, lambda each: progress.advance(each.case)
                )
        said = {"out": b"", "err": b""}

        def on_output(stream: str, data: bytes) -> None:
            said[stream] += data

        arguments = ["probe", "--json", "-n", str(WAKES), "--deadline", str(DEADLINE_S)]
        for each in cases:
            arguments += ["--case", each.name]
        probing.run(kernel, arguments, settings, on_output, progress.booted)
        if not said["out"]:
            raise ProbeFailed(said["err"].decode(errors="replace").strip() or "It said nothing.")
        return list(probe.from_json(said["out"]).cases)
    finally:
        progress.close()
