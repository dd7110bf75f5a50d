# SPDX-License-Identifier: BSD-3-Clause
"""The bases of the benchmarks of requests: one set of trials gives several numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench_lib.asv_bridge.progress import Progress
from bench_lib.errors import KickbenchError, MemoryDamaged, TrialLost, UnknownKernel
from bench_lib.fleet.runner import FleetRunner
from bench_lib.kernel.ledger import Ledger
from bench_lib.kernel.store import Bootable, Store
from bench_lib.kvm.cases import CASES, Wake
from bench_lib.lab import parallel
from bench_lib.lab.trials import LabRunner
from bench_lib.record import (
    FAILED,
    SCORED,
    Backing,
    Family,
    Kernel,
    ManagerName,
    Outcome,
    Record,
    RequestName,
    ScenarioName,
    Shape,
)
from bench_lib.settings import Settings
from bench_lib.storage.fuse import Stall
from bench_lib.trial import case, preflight
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import AT_SWITCH, CORE_SCENARIOS, PV_IMAGES, Case
from bench_lib.trial.requests.description import deadline_s
from bench_lib.trial.runner import Runner
from bench_lib.units import NS_PER_S

# These are plain strings, because asv shows the repr() of a parameter.
FULL = tuple(each.value for each in ScenarioName if each.family is not Family.STORAGE)
CORE = tuple(each.value for each in CORE_SCENARIOS)


def scenarios(settings: Settings) -> tuple[str, ...]:
    """Return the scenarios in which requests are made."""
    return FULL if settings.lists_full else CORE


GUESTS = {
    "1 vCPU": Shape(),
    "2 vCPUs": Shape(vcpus=2),
    "4 vCPUs": Shape(vcpus=4),
    "8 vCPUs": Shape(vcpus=8),
    "64 MiB": Shape(memory_mib=64),
    "memfd": Shape(backing=Backing.MEMFD),
}
"""Guests that every host can run. `kickbench trial` can run others."""

CORE_GUESTS = ("1 vCPU", "4 vCPUs")


def guests(settings: Settings) -> tuple[str, ...]:
    """Return the names of the guests to which requests are made."""
    return tuple(GUESTS) if settings.lists_full else CORE_GUESTS


SWITCHES = {
    f"{scenario}, {image}": (scenario, Shape(image=image))
    for scenario in AT_SWITCH
    for image in (Shape().image, *PV_IMAGES)
}
"""What fails at the switch, and for which image of the guest."""

CORE_SWITCHES = tuple(name for name, (scenario, _) in SWITCHES.items() if scenario is AT_SWITCH[0])


def switches(settings: Settings) -> tuple[str, ...]:
    """Return the names of the failures at the switch in which requests are made."""
    return tuple(SWITCHES) if settings.lists_full else CORE_SWITCHES


STALLS = tuple(each.value for each in ScenarioName if each.family is Family.STORAGE)
"""The scenarios in which the storage behind the guest's memory does not answer. What a host or a
kernel cannot stage is skipped."""

CORE_STALLS = (ScenarioName.FUSE_HOLD.value,)


def stalls(settings: Settings) -> tuple[str, ...]:
    """Return the scenarios of the family storage in which requests are made."""
    return STALLS if settings.lists_full else CORE_STALLS


PROBES = tuple(each.name for each in CASES)
"""The cases of the probe."""

CORE_PROBES = tuple(
    each.name
    for each in CASES
    if each.wake is Wake.SIGUSR1
    or (
        each.wake.calls and each.program in {"write", "string"} and not isinstance(each.mode, Stall)
    )
)
"""Every way to get stuck with one wake, and two of them with all wakes."""


def probes(settings: Settings) -> tuple[str, ...]:
    """Return the names of the cases of the probe."""
    return PROBES if settings.lists_full else CORE_PROBES


def measured(values: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """Return those values of a parameter that KICKBENCH_SET selects.

    If the benchmark lists its own values, all of them are selected.
    """
    given = tuple(values)
    cores = {
        FULL: CORE,
        tuple(GUESTS): CORE_GUESTS,
        tuple(SWITCHES): CORE_SWITCHES,
        STALLS: CORE_STALLS,
        PROBES: CORE_PROBES,
    }
    return given if settings.full else cores.get(given, given)


@contextmanager
def failures_reported(settings: Settings) -> Iterator[None]:
    """Report an error to asv's environment in a file, so that nothing is saved."""
    try:
        yield
    except KickbenchError as error:
        if settings.failure is not None:
            settings.failure.write_text(f"{error.exit_status} {error}")
        raise


def silence_limit_s(settings: Settings) -> float:
    """Return the seconds without output after which asv ends a benchmark.

    A trial prints a line when it ends, and a lab when it is up. kickbench gives up either of them
    before this limit.
    """
    longest_s = max(deadline_s(name, settings) for name in RequestName)
    return 300 + settings.lab_boot_s + 2 * (settings.staging_s + longest_s)


def fleet_kernel(settings: Settings) -> Kernel | None:
    """Return the kernel that asv requests of a host of the fleet; None without a fleet.

    :raise UnknownKernel: the ledger has no such build.
    """
    if settings.kernel is None or settings.fleet_host is None:
        return None
    known = Ledger(settings.ledger).including_booted()
    found = next((build for build in known if build.id == settings.kernel), None)
    if found is None:
        raise UnknownKernel(
            f"{settings.ledger} has no build {settings.kernel}; add it with `kickbench kernels "
            "fetch` or `kickbench kernels add`."
        )
    return found.kernel


def requested_kernel(settings: Settings) -> Bootable | None:
    """Return the kernel that asv requests, or None for the booted one.

    :raise UnknownKernel: the lab has no image of the kernel.
    """
    if settings.kernel is None:
        return None
    kernel = Store.of(settings).find_id(settings.kernel)
    if kernel is None:
        raise UnknownKernel(
            f"The lab has no image of the build {settings.kernel}; fetch it with `kickbench "
            "kernels fetch`, or add it with `kickbench kernels add`."
        )
    return kernel


class RequestSuite:
    """Base of a benchmark class.

    A subclass names its `request`, and defines `setup_cache` as ``return self.measure()``. It has
    to do so itself, because asv distinguishes caches by the line that defines them.

    The worst wait is not a number here, only in `kickbench report`. A maximum has no interval, so
    asv would report each increase by a tenth as a regression, and `asv continuous` would fail by
    chance.

    A trial that hung, or whose QEMU died, is stored with its deadline and counted in a number of
    its own. NaN would be invisible to asv's comparisons, and infinity would break `asv publish`. A
    refused trial is counted only in its own number.

    The version is still 2, although refusals, deaths and unexplained hangs used to count as lost.
    Results without any of these are the same as today, and another version would remove all earlier
    points from asv's graphs.
    """

    request: RequestName
    manager = ManagerName.QEMU
    most_trials: int | None = None
    """Trials of a scenario, at the most, where each takes very long; None for KICKBENCH_TRIALS."""
    params: Sequence[str] = scenarios(Settings.from_environment())
    param_names = ("scenario",)
    version = "2"

    @property
    def timeout(self) -> float:
        """Seconds without output; see `silence_limit_s`."""
        return silence_limit_s(Settings.from_environment())

    def measure(self) -> dict[str, list[Record]]:
        """Run all trials, interleaved over the parameter, and return the records by its values.

        Values for which this host lacks something are not in the result, and `setup` skips them.
        It also skips those for which the lab lacks something, whose trials were not tried.

        :raise KickbenchError: the trials could not run, or no trial of a value gave a measurement.
            The error is reported to asv's environment, so that nothing is saved.
        """
        settings = Settings.from_environment()
        with failures_reported(settings):
            return self._measure(settings)

    def case(self, value: str) -> Case:
        """Return the case of a trial.

        :param value: the value of the parameter.
        """
        return Case(ScenarioName(value), self.request, manager=self.manager)

    def setup(self, records: dict[str, list[Record]], value: str) -> None:
        """Skip what cannot be measured here. asv expects NotImplementedError for that."""
        group = records.get(value)
        if group is None:
            raise NotImplementedError(self._lacking(value, Settings.from_environment()))
        if not any(each.tried for each in group):
            raise NotImplementedError(group[0].reason)

    def _lacking(self, value: str, settings: Settings) -> str | None:
        """Return what this host lacks for the request or the scenario; None if nothing.

        What a host of the fleet lacks is not known here. Its trials are made nevertheless, and the
        records of those that it could not try have the reason.
        """
        if settings.fleet_host is not None:
            return None
        lab = settings.kernel is not None
        without = preflight.lacking(self.request, self.manager, lab=lab)
        if without is not None:
            return without
        error = preflight.not_staged(self.case(value).scenario, lab=lab)
        return None if error is None else str(error)

    def _measure(self, settings: Settings) -> dict[str, list[Record]]:
        by_value = {
            value: self.case(value)
            for value in measured(self.params, settings)
            if self._lacking(value, settings) is None
        }
        if not by_value:
            return {}
        trials = min(settings.trials, self.most_trials or settings.trials)
        cases = case.interleaved(list(by_value.values()), trials)
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
            if not scored(group) and any(each.tried for each in group):
                reasons = {record.reason or str(record.outcome) for record in group}
                raise TrialLost(f"No trial of {value} gave a measurement: {' '.join(reasons)}")
        return found

    def track_latency(
        self, records: dict[str, list[Record]], value: str
    ) -> dict[str, object] | float:
        """Time until the answer, with a sample per trial. asv calculates the median and interval.

        If every trial was refused, there is no such time, and the result is NaN.
        """
        samples = [
            record.waited_ns / NS_PER_S
            for record in scored(records[value])
            if record.outcome is not Outcome.REFUSED
        ]
        if len(samples) < 2:  # asv would give one sample an infinite interval
            return samples[0] if samples else math.nan
        return {"samples": samples, "number": 1}

    track_latency.unit = "seconds"  # type: ignore[attr-defined]

    def track_hung(self, records: dict[str, list[Record]], value: str) -> int:
        """Trials without an answer before the deadline, including those whose QEMU died."""
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


class VirtSuite(RequestSuite):
    """The same for guests that libvirt runs."""

    manager = ManagerName.LIBVIRT


class GuestSuite(RequestSuite):
    """Base of a benchmark that makes one request to guests of different shapes in a blackhole."""

    params = guests(Settings.from_environment())
    param_names = ("guest",)

    def case(self, value: str) -> Case:
        return Case(ScenarioName.BLACKHOLE, self.request, GUESTS[value])


class SwitchSuite(RequestSuite):
    """Base of a benchmark in which the migration fails at the switch, for different images."""

    params = switches(Settings.from_environment())
    param_names = ("switch",)

    def case(self, value: str) -> Case:
        scenario, shape = SWITCHES[value]
        return Case(scenario, self.request, shape)


class StallSuite(RequestSuite):
    """Base of a benchmark in which the storage behind the guest's memory does not answer."""

    params = stalls(Settings.from_environment())
    param_names = ("stall",)


def _run(cases: Sequence[Case], settings: Settings, progress: Progress) -> list[Record]:
    """Run trials under the booted kernel, or in a lab under the kernel that asv requests.

    The lab is of this host or, in the environment `kernel-fleet`, of a host of the fleet.
    """
    if (wanted := fleet_kernel(settings)) is not None:
        of_fleet = FleetRunner(wanted, settings, settings.fleet_host, on_news=progress.waiting)
        return of_fleet.run(cases, progress.kept)
    runner: Runner = NativeRunner(settings)
    if (kernel := requested_kernel(settings)) is not None:
        runner = LabRunner(kernel, settings, progress.booted, parallel.jobs(settings))
    return runner.run(cases, progress.trial)


def scored(records: Sequence[Record]) -> list[Record]:
    """Return the records of trials that measured something."""
    return [record for record in records if record.outcome in SCORED]
