# SPDX-License-Identifier: BSD-3-Clause
"""The probe for asv: one run of it gives two numbers per case."""

from __future__ import annotations

from collections.abc import Sequence

from bench_lib import interrupt, ownership
from bench_lib.asv_bridge.progress import Progress
from bench_lib.asv_bridge.suite import (
    failures_reported,
    measured,
    probes,
    requested_kernel,
    silence_limit_s,
)
from bench_lib.errors import ProbeFailed
from bench_lib.kvm import probe
from bench_lib.kvm.cases import BY_NAME, ProbeCase
from bench_lib.kvm.probe import Result
from bench_lib.lab import probing
from bench_lib.record import HUNG, SCORED, Outcome
from bench_lib.settings import Settings
from bench_lib.units import NS_PER_S

WAKES = 200
"""Wakes per case. asv keeps the times of all of them."""

DEADLINE_S = 1.0
"""Seconds after which a wake counts as hung."""


class ProbeSuite:
    """Base of a benchmark class, which defines `setup_cache` as ``return self.measure()``.

    A wake that hung is stored with its deadline, and counted in its own number, as requests are.
    """

    params = probes(Settings.from_environment())
    param_names = ("case",)
    version = "3"

    @property
    def timeout(self) -> float:
        """Seconds without output; see `silence_limit_s`."""
        return silence_limit_s(Settings.from_environment())

    def measure(self) -> dict[str, Result]:
        """Probe the cases that KICKBENCH_SET selects, and return the results by their names.

        A host of a fleet makes trials only, so there are no results then.

        :raise KickbenchError: the probe could not run, or no case gave a measurement. The error is
            reported to asv's environment, so that nothing is saved.
        """
        settings = Settings.from_environment()
        if settings.fleet_host is not None:
            return {}
        with failures_reported(settings):
            cases = [BY_NAME[each] for each in measured(self.params, settings)]
            results = {each.case: each for each in _run(settings, cases)}
            # Lost cases run once more, so that a short disturbance leaves no gap in the history.
            if lost := [each for each in cases if results[each.name].outcome is Outcome.LOST]:
                results |= {each.case: each for each in _run(settings, lost)}
            if not any(each.outcome in SCORED for each in results.values()):
                reasons = dict.fromkeys(f"{each.case}: {each.reason}" for each in results.values())
                raise ProbeFailed(f"No case gave a measurement: {' '.join(reasons)}")
        return results

    def setup(self, results: dict[str, Result], case: str) -> None:
        """Skip a case that cannot be measured here. asv expects NotImplementedError for that."""
        if case not in results:
            raise NotImplementedError("Hosts of a fleet make trials, and do not run the probe.")
        if results[case].outcome not in SCORED:
            raise NotImplementedError(results[case].reason)

    def track_wake(self, results: dict[str, Result], case: str) -> dict[str, object] | float:
        """What the probe times (see `cases.Wake`), with a sample per wake."""
        result = results[case]
        if result.outcome in HUNG:
            return DEADLINE_S
        return {"samples": [each / NS_PER_S for each in result.wakes_ns], "number": 1}

    track_wake.unit = "seconds"  # type: ignore[attr-defined]

    def track_hung(self, results: dict[str, Result], case: str) -> int:
        """1 if the thread did not return before the deadline, else 0."""
        return int(results[case].outcome in HUNG)

    track_hung.unit = "cases"  # type: ignore[attr-defined]


def _run(settings: Settings, cases: Sequence[ProbeCase]) -> list[Result]:
    """Probe under the booted kernel, or in the lab under the kernel that asv requests."""
    progress = Progress(settings.progress, len(cases))
    kernel = requested_kernel(settings)
    try:
        if kernel is None:
            with interrupt.raised(), ownership.measuring(settings.runtime) as owner:
                return probe.run(
                    owner, cases, WAKES, DEADLINE_S, lambda each: progress.advance(each.case)
                )
        output = {"out": b"", "err": b""}

        def on_output(stream: str, data: bytes) -> None:
            output[stream] += data

        arguments = ["probe", "--json", "-n", str(WAKES), "--deadline", str(DEADLINE_S)]
        for each in cases:
            arguments += ["--case", each.name]
        probing.run(kernel, arguments, settings, on_output, progress.booted)
        if not output["out"]:
            reason = output["err"].decode(errors="replace").strip()
            raise ProbeFailed(reason or "The probe in the lab printed no result.")
        return list(probe.from_json(output["out"]).cases)
    finally:
        progress.close()
