"""What every benchmark of a request has in common: one set of trials, several numbers of it."""

from __future__ import annotations

from collections.abc import Sequence

from bench_lib.asv_bridge.progress import Progress
from bench_lib.errors import TrialLost
from bench_lib.record import HUNG, Outcome, Record, Request, Scenario
from bench_lib.settings import Settings
from bench_lib.trial import batch

NS_PER_S = 1e9

SILENCE_S = 300
"""asv ends a benchmark that prints nothing for so long; a trial prints when it ends."""


class RequestSuite:
    """Base of a benchmark class.

    A subclass names its `request` and, as `params`, its scenarios (their plain names: asv shows
    a parameter as repr() gives it), and defines `setup_cache` as ``return self.measure()``: asv
    tells caches apart by the line that defines them.

    A hung trial is stored at its deadline and counted beside it, never as NaN (which no
    comparison of asv sees) or infinity (which `asv publish` does not survive).
    """

    request: Request
    params: Sequence[str]
    param_names = ("scenario",)
    timeout = SILENCE_S
    version = "1"

    def measure(self) -> dict[str, list[Record]]:
        """Run all trials, interleaved over the scenarios; their records by scenario."""
        settings = Settings.from_environment()
        cases = batch.interleaved(
            [batch.Case(Scenario(name), self.request) for name in self.params], settings.trials
        )
        progress = Progress(settings.progress, len(cases))
        try:
            records = batch.run(cases, settings, on_record=progress.advance)
        finally:
            progress.close()
        return {
            name: [record for record in records if record.scenario == name] for name in self.params
        }

    def track_latency(self, records: dict[str, list[Record]], scenario: str) -> dict[str, object]:
        """Time until the answer, a sample a trial. asv makes median and interval of them."""
        samples = [record.waited_ns / NS_PER_S for record in _scored(records[scenario])]
        return {"samples": samples, "number": 1}

    track_latency.unit = "seconds"  # type: ignore[attr-defined]

    def track_worst(self, records: dict[str, list[Record]], scenario: str) -> float:
        """The longest that an operator waited."""
        return max(record.waited_ns for record in _scored(records[scenario])) / NS_PER_S

    track_worst.unit = "seconds"  # type: ignore[attr-defined]

    def track_hung(self, records: dict[str, list[Record]], scenario: str) -> int:
        """Trials without an answer before the deadline."""
        return sum(record.outcome in HUNG for record in _scored(records[scenario]))

    track_hung.unit = "trials"  # type: ignore[attr-defined]


def _scored(records: Sequence[Record]) -> list[Record]:
    """Trials that measured something.

    :raise TrialLost: none did; asv then shows the benchmark as failed, with the reason.
    """
    scored = [record for record in records if record.outcome in HUNG | {Outcome.RETURNED}]
    if not scored:
        reasons = {record.reason or str(record.outcome) for record in records}
        raise TrialLost(f"No trial gave a measurement: {' '.join(sorted(reasons))}")
    return scored
