# SPDX-License-Identifier: BSD-3-Clause
"""What every benchmark of a request has in common: one set of trials, several numbers of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench_lib.asv_bridge.progress import Progress
from bench_lib.errors import KickbenchError, MemoryDamaged, TrialLost, UnknownKernel
from bench_lib.kernel.store import Bootable, Store
from bench_lib.lab import parallel
from bench_lib.lab.trials import LabRunner
from bench_lib.record import (
    FAILED,
    SCORED,
    Backing,
    Outcome,
    Record,
    RequestName,
    ScenarioName,
    Shape,
)
from bench_lib.settings import Settings
from bench_lib.trial import case, preflight
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import AT_SWITCH, CORE_SCENARIOS, PV_IMAGES, Case
from bench_lib.trial.runner import Runner
from bench_lib.units import NS_PER_S

# Plain names, because asv shows a parameter as repr() gives it.
FULL = tuple(each.value for each in ScenarioName)
CORE = tuple(each.value for each in CORE_SCENARIOS)


def scenarios(settings: Settings) -> tuple[str, ...]:
    """What requests are made in."""
    return FULL if settings.lists_full else CORE


GUESTS = {
    "1 vCPU": Shape(),
    "2 vCPUs": Shape(vcpus=2),
    "4 vCPUs": Shape(vcpus=4),
    "8 vCPUs": Shape(vcpus=8),
    "64 MiB": Shape(memory_mib=64),
    "memfd": Shape(backing=Backing.MEMFD),
}
"""What every host can have; the rest is for `kickbench trial`."""

CORE_GUESTS = ("1 vCPU", "4 vCPUs")


def guests(settings: Settings) -> tuple[str, ...]:
    """The guests that a request is made to."""
    return tuple(GUESTS) if settings.lists_full else CORE_GUESTS


SWITCHES = {
    f"{scenario}, {image}": (scenario, Shape(image=image))
    for scenario in AT_SWITCH
    for image in (Shape().image, *PV_IMAGES)
}
"""What fails at the switch, and for which guest."""

CORE_SWITCHES = tuple(name for name, (scenario, _) in SWITCHES.items() if scenario is AT_SWITCH[0])


def switches(settings: Settings) -> tuple[str, ...]:
    """What a request is made in at the switch."""
    return tuple(SWITCHES) if settings.lists_full else CORE_SWITCHES


def measured(values: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """Of all values of a parameter, those that KICKBENCH_SET has measured.

    A benchmark with values of its own has all of them measured.
    """
    given = tuple(values)
    cores = {FULL: CORE, tuple(GUESTS): CORE_GUESTS, tuple(SWITCHES): CORE_SWITCHES}
    return given if settings.full else cores.get(given, given)


@contextmanager
def failure_told(settings: Settings) -> Iterator[None]:
    """Leave word of an error for asv's environment, so that nothing is saved."""
    try:
        yield
    except KickbenchError as error:
        if settings.failure is not None:
            settings.failure.write_text(f"{error.exit_status} {error}")
        raise


def silence_s(settings: Settings) -> float:
    """Seconds without output after which asv ends a benchmark.

    A trial prints when it ends, and a lab when it is up; it is given up before this.
    """
    return 300 + settings.lab_boot_s + 2 * (settings.staging_s + settings.deadline_s)


def asked_for(settings: Settings) -> Bootable | None:
    """The kernel that asv asks for; None for the booted one.

    :raise UnknownKernel: the lab has no image of it.
    """
    if settings.kernel is None:
        return None
    kernel = Store.of(settings).find_id(settings.kernel)
    if kernel is None:
        raise UnknownKernel(f"The lab has no image of the build {settings.kernel}.")
    return kernel


class RequestSuite:
    """Base of a benchmark class.

    A subclass names its `request`, and defines `setup_cache` as ``return self.measure()``: asv
    tells caches apart by the line that defines them.

    The worst case is left to `kickbench report`: a maximum has no interval, so asv would call any
    tenth more a regression, and `asv continuous` would fail by chance.

    A hung trial is stored at its deadline and counted beside it, never as NaN (which no
    comparison of asv sees) or infinity (which `asv publish` does not survive). So is one whose QEMU
    died. A refused trial is counted alone.

    The version stays 2 though refusals were counted as lost before, and deaths and hangs that
    nothing explained too: where a result has none of these, it is what it would be today, and
    another version would take all earlier points off asv's graphs.
    """

    request: RequestName
    params: Sequence[str] = scenarios(Settings.from_environment())
    param_names = ("scenario",)
    version = "2"

    @property
    def timeout(self) -> float:
        """Seconds; see `silence_s`."""
        return silence_s(Settings.from_environment())

    def measure(self) -> dict[str, list[Record]]:
        """Run all trials, interleaved over the parameter; their records by its values.

        Nothing, if this host lacks what the request takes; then `setup` leaves it out.

        :raise KickbenchError: they could not be run, or those of a scenario gave no measurement.
            Word of it is left for asv's environment, so that nothing is saved.
        """
        settings = Settings.from_environment()
        with failure_told(settings):
            return {} if self._lacking(settings) is not None else self._measure(settings)

    def case(self, value: str) -> Case:
        """What a trial is of. :param value: of the parameter."""
        return Case(ScenarioName(value), self.request)

    def setup(self, records: dict[str, list[Record]], value: str) -> None:
        """Leave out what cannot be measured here, as asv wants to be told of it."""
        if not records:
            raise NotImplementedError(self._lacking(Settings.from_environment()))

    def _lacking(self, settings: Settings) -> str | None:
        return preflight.lacking(self.request, lab=settings.kernel is not None)

    def _measure(self, settings: Settings) -> dict[str, list[Record]]:
        by_value = {value: self.case(value) for value in measured(self.params, settings)}
        cases = case.interleaved(list(by_value.values()), settings.trials)
        progress = Progress(settings.progress, len(cases))
        try:
            records = _run(cases, settings, progress)
        finally:
            progress.close()
        for each in records:
            if each.damaged:
                damage = each.recovery.damage if each.recovery else None
                raise MemoryDamaged(f"Trial {each.seq} of run {each.run_id}: {damage}")
        found = {
            value: [
                each for each in records if (each.scenario, each.shape) == (of.scenario, of.shape)
            ]
            for value, of in by_value.items()
        }
        for value, group in found.items():
            if not scored(group):
                reasons = {record.reason or str(record.outcome) for record in group}
                raise TrialLost(f"No trial of {value} gave a measurement: {' '.join(reasons)}")
        return found

    def track_latency(
        self, records: dict[str, list[Record]], value: str
    ) -> dict[str, object] | float:
        """Time until the answer, a sample a trial. asv makes median and interval of them.

        Where every trial was refused there is no such time, and NaN is how asv notes that.
        """
        samples = [
            record.waited_ns / NS_PER_S
            for record in scored(records[value])
            if record.outcome is not Outcome.REFUSED
        ]
        if len(samples) < 2:  # of one asv would give an interval without end
            return samples[0] if samples else math.nan
        return {"samples": samples, "number": 1}

    track_latency.unit = "seconds"  # type: ignore[attr-defined]

    def track_hung(self, records: dict[str, list[Record]], value: str) -> int:
        """Trials without an answer before the deadline, those included whose QEMU died."""
        return sum(record.outcome in FAILED for record in records[value])

    track_hung.unit = "trials"  # type: ignore[attr-defined]

    def track_refused(self, records: dict[str, list[Record]], value: str) -> int:
        """Trials whose answer was an error."""
        return sum(record.outcome is Outcome.REFUSED for record in records[value])

    track_refused.unit = "trials"  # type: ignore[attr-defined]

    def track_lost(self, records: dict[str, list[Record]], value: str) -> int:
        """Trials that gave no measurement and count in none of the other numbers."""
        return len(records[value]) - len(scored(records[value]))

    track_lost.unit = "trials"  # type: ignore[attr-defined]


class GuestSuite(RequestSuite):
    """The same for guests of different kinds, all in a blackhole."""

    params = guests(Settings.from_environment())
    param_names = ("guest",)

    def case(self, value: str) -> Case:
        return Case(ScenarioName.BLACKHOLE, self.request, GUESTS[value])


class SwitchSuite(RequestSuite):
    """The same where the migration fails at the switch, for guests that share a page with KVM."""

    params = switches(Settings.from_environment())
    param_names = ("switch",)

    def case(self, value: str) -> Case:
        scenario, shape = SWITCHES[value]
        return Case(scenario, self.request, shape)


def _run(cases: Sequence[Case], settings: Settings, progress: Progress) -> list[Record]:
    """Under the booted kernel, or in the lab under the one that asv asks for."""
    kernel = asked_for(settings)
    runner: Runner = NativeRunner(settings)
    if kernel is not None:
        runner = LabRunner(kernel, settings, progress.booted, parallel.jobs(settings))
    return runner.run(cases, progress.trial)


def scored(records: Sequence[Record]) -> list[Record]:
    """Those of the trials that measured something."""
    return [record for record in records if record.outcome in SCORED]
