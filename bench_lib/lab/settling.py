# SPDX-License-Identifier: BSD-3-Clause
"""More boots of two kernels, in steps, until the gate can decide between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench_lib import interrupt, ownership, record
from bench_lib.deadline import Deadline
from bench_lib.errors import CannotCompare
from bench_lib.guest import features, image
from bench_lib.guest.workloads import linux
from bench_lib.guest.workloads.description import LINUX
from bench_lib.kernel import guest as guest_kernel
from bench_lib.kernel.store import Bootable
from bench_lib.lab import campaign, qemu
from bench_lib.lab.campaign import Campaign
from bench_lib.lab.vm import Facts
from bench_lib.record import SCHEMA, Kernel, Record, RequestName
from bench_lib.settings import Settings
from bench_lib.trial.case import CORE_SCENARIOS, Case, interleaved
from bench_lib.trial.requests.description import deadline_s
from bench_lib.units import NS_PER_S
from bench_lib.verdict import inference
from bench_lib.verdict.gate import Gate
from bench_lib.verdict.matching import check_schemas
from bench_lib.verdict.terms import DEFAULT_TERMS

FIRST_LOOK = 6
"""The least number of boots of each kernel before the first look; fewer cannot decide anything."""

TRIALS = 2
"""Trials of each case per boot."""


class Boots(Protocol):
    """Where the boots are made: in this host's labs, or on the hosts of a fleet."""

    def records(self) -> list[Record]:
        """Return the records that are judged."""

    def check(self, records: Sequence[Record]) -> None:
        """Refuse to add boots to records that new ones could not be compared with.

        :raise CannotCompare: they were made with another QEMU, deadline or guest.
        """

    def make(self, boots: int, last: Gate | None) -> bool:
        """Boot the kernels until each has this many boots.

        :param last: what the gate found at the last look; None before the first one.
        :return: whether anything could be done, so that looking again makes sense.
        """


@dataclass(frozen=True)
class LabBoots:
    """Boots in this host's labs."""

    settings: Settings
    builds: Sequence[Bootable]
    on_record: Callable[[Record], None]
    on_boot: Callable[[Facts], None]

    def records(self) -> list[Record]:
        return lab_records(self.settings, self.builds)

    def check(self, records: Sequence[Record]) -> None:
        check_as_now(records, self.settings)

    def make(self, boots: int, last: Gate | None) -> bool:
        boot(self.settings, self.builds, boots, self.on_record, self.on_boot)
        return True


@dataclass(frozen=True)
class Step:
    """Boots that are made in one campaign.

    :ivar boots: the number of boots of each of the kernels.
    :ivar name: the name of the campaign, by which it is continued if it was interrupted.
    """

    kernels: tuple[Kernel, ...]
    boots: int
    name: str


def looks(most: int) -> list[int]:
    """The numbers of boots after which the gate looks: each twice the last, and then `most`.

    There are few looks, because each one takes its share of the allowed error probability. The
    first look has enough boots for a kernel to pass.
    """
    first = FIRST_LOOK
    while True:
        found = []
        boots = first
        while boots < most:
            found.append(boots)
            boots *= 2
        found.append(most)
        confidence = 1 - DEFAULT_TERMS.alpha / len(found)
        if first >= min(most, inference.boots_to_bound(DEFAULT_TERMS.hanging, confidence)):
            return found
        first += 1


def lab_records(settings: Settings, builds: Sequence[Bootable]) -> list[Record]:
    """The records of these kernels that this host's labs have made with the current accelerator."""
    kernels = {build.build.kernel for build in builds}
    here = qemu.host()
    records, _ = record.read(settings.records)
    return [each for each in records if each.kernel in kernels and each.host == here]


def cases(records: Sequence[Record]) -> list[Case]:
    """The cases to measure: those of the records, or, without records, `stop` in core scenarios."""
    found = list(dict.fromkeys(map(_case, records)))
    return found or [Case(scenario, RequestName.STOP) for scenario in CORE_SCENARIOS]


def check_as_now(records: Sequence[Record], settings: Settings) -> None:
    """Refuse to add boots to records that were made with another QEMU, deadline or guest.

    :raise CannotCompare: one of them has changed; the sentence names it.
    :raise GuestKernelMissing: the cache does not have the kernel of Linux guests.
    :raise HostError: QEMU cannot be started or does not answer.
    """
    if not records:
        return
    check_schemas(records, [SCHEMA])
    with ownership.measuring(settings.runtime) as owner:
        features_of_qemu = features.ask(owner, settings.qemu, Deadline.after(settings.staging_s))
        version = interrupt.run(features_of_qemu).version
    refuse_others(
        {
            "QEMU": ({each.qemu for each in records if each.qemu}, version),
            **deadlines(records, settings),
            **guests(records, settings),
        }
    )


def deadlines(records: Sequence[Record], settings: Settings) -> dict[str, tuple[set[str], str]]:
    """Return the deadlines in these records, and what they would be in new ones, by request."""
    found = {}
    for request in sorted({each.request for each in records}):
        before = {
            f"{each.deadline_ns / NS_PER_S:g} s" for each in records if each.request is request
        }
        limit_s = deadline_s(request, settings)
        found[f"deadline of {request}"] = before, f"{limit_s:g} s"
    return found


def refuse_others(now: Mapping[str, tuple[set[str], str]]) -> None:
    """Refuse to add boots to records that were made with something else.

    :param now: for each thing, its values in the records, and the present value.
    :raise CannotCompare: a value in the records is not the present one.
    """
    for what, (before, here) in now.items():
        if before - {here}:
            raise CannotCompare(
                f"The records so far were made with {what} {', '.join(sorted(before))}, but new "
                f"ones would be made with {here}, so they cannot be compared; keep the new ones in "
                "a separate record file (KICKBENCH_RECORDS)."
            )


def guests(records: Sequence[Record], settings: Settings) -> dict[str, tuple[set[str], str]]:
    """Return what guests consisted of in these records, and what new ones would consist of.

    :return: for each part of a guest, the values in the records and the present value.
    :raise GuestKernelMissing: the cache does not have the kernel of Linux guests.
    :raise ImageError: an image is missing, or is not the one that its manifest describes.
    """
    found = {}
    for name in sorted({each.shape.image for each in records}):
        of = {each.image_sha256 for each in records if each.shape.image == name}
        if name == LINUX:
            sha256 = linux.manifest(settings.images).sha256
        else:
            sha256 = image.load(settings.images, name).entry.sha256
        found[f"guest image {name}"] = ({each for each in of if each}, sha256)
    if kernels := {_named(each.guest_kernel) for each in records if each.guest_kernel}:
        now = guest_kernel.find(settings).build.kernel
        found["the guest kernel"] = (kernels, _named(now))
    return found


def _named(kernel: Kernel) -> str:
    return f"{kernel.release} {kernel.version}"


def boot(
    settings: Settings,
    builds: Sequence[Bootable],
    boots: int,
    on_record: Callable[[Record], None],
    on_boot: Callable[[Facts], None],
) -> None:
    """Boot the kernels, interleaved, until each has `boots` boots with a trial of every case."""
    by_kernel = {build.build.kernel: build for build in builds}
    records = lab_records(settings, builds)
    wanted = cases(records)
    for step in steps(records, list(by_kernel), wanted, boots):
        there = [by_kernel[kernel] for kernel in step.kernels]
        plan = Campaign(there, step.boots, interleaved(wanted, TRIALS), step.name)
        campaign.run(plan, settings, on_record, on_boot)


def steps(
    records: Sequence[Record], kernels: Sequence[Kernel], wanted: Sequence[Case], boots: int
) -> list[Step]:
    """Return what is still to be made on one host, in order.

    :param records: the records of the host.
    :param wanted: the cases that each boot has to have tried.
    :param boots: the number of boots that each kernel is to have.
    """
    done = [min(boots, _boots(records, kernel, wanted)) for kernel in kernels]
    most = max(done)
    name = f"after {done}"
    # The kernel with fewer boots catches up first, so that the rest can be interleaved.
    behind = [
        Step((kernel,), most - count, name) for kernel, count in zip(kernels, done, strict=True)
    ]
    return [each for each in (*behind, Step(tuple(kernels), boots - most, name)) if each.boots]


def _case(made: Record) -> Case:
    return Case(made.scenario, made.request, made.shape, manager=made.manager)


def _boots(records: Sequence[Record], kernel: Kernel, cases: Sequence[Case]) -> int:
    """The number of boots of a kernel that the case with the fewest boots was tried in."""
    tried: dict[Case, set[str]] = {case: set() for case in cases}
    for each in records:
        if each.kernel == kernel and each.boot_id:
            tried[_case(each)].add(each.boot_id)
    return min(map(len, tried.values()))
