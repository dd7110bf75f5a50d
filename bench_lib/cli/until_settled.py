# SPDX-License-Identifier: BSD-3-Clause
"""What `kickbench gate --boots-until-settled` does: boot two kernels, and judge them repeatedly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Sequence

import click

from bench_lib import present
from bench_lib.cli.kernels import bootable, fetch_guest
from bench_lib.errors import CampaignIncomplete, CannotCompare
from bench_lib.fleet.settling import FleetBoots
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.names import BOOTED, meant
from bench_lib.kernel.store import Bootable, Store
from bench_lib.kernel.suites import Suites
from bench_lib.lab import settling
from bench_lib.lab.settling import Boots
from bench_lib.lab.vm import Facts
from bench_lib.record import Kernel, Record
from bench_lib.settings import Settings
from bench_lib.verdict import gate as judging
from bench_lib.verdict.comparison import Verdict
from bench_lib.verdict.gate import Gate
from bench_lib.verdict.matching import check_alike
from bench_lib.verdict.terms import Terms

NO_LIMIT = "none"
"""The value of --limit that removes the limit of a request."""


def builds(settings: Settings, names: Sequence[str], records: Sequence[Record]) -> list[Bootable]:
    """The builds to boot.

    :raise CannotCompare: a name means the booted kernel.
    """
    if BOOTED in names:
        raise CannotCompare(
            "The lab cannot boot `booted`; name a kernel in the cache, or one of Debian's."
        )
    found = [_to_boot(settings, name, records) for name in names]
    print_releases(names, [build.build.kernel for build in found])
    return found


def _to_boot(settings: Settings, name: str, records: Sequence[Record]) -> Bootable:
    """The build that `name` means: a kernel with records, or else one in the cache or of Debian.

    Kernels with records come first, so that a name means the same with and without more boots.
    Debian's suites are read only if no record and no kernel in the cache fits, or to fetch a kernel
    that has records but is not in the cache.
    """
    cache = Store.of(settings)
    recorded = [describe(kernel) for kernel in dict.fromkeys(each.kernel for each in records)]
    fetched = sorted((each.build for each in cache.all()), key=lambda build: build.date)
    suites = Suites.of(settings).meanings()
    for builds in (recorded, fetched):
        if found := meant(name, builds, suites):
            return cache.find_build(found[-1]) or bootable(settings, found[-1].release)
    return bootable(settings, name)


def in_lab(
    settings: Settings,
    builds: Sequence[Bootable],
    most: int,
    terms: Terms,
    limits: Sequence[str],
    *,
    whatever_differs: bool,
    unread: int,
) -> Gate:
    """Boot both kernels in this host's lab until there is a verdict; see `_until_settled`."""
    base, candidate = (build.build.kernel for build in builds)
    boots = settling.LabBoots(settings, builds, _print_record, _print_boot)

    def judge(records: Sequence[Record], terms: Terms) -> Gate:
        return judging.compare(
            records, base, candidate, terms, whatever_differs=whatever_differs, unread=unread
        )

    there = boots.records()
    check_limits({each.request for each in settling.cases(there)}, limits)
    fetch_guest(settings, settling.cases(there))
    if not whatever_differs:
        check_alike(there, base, candidate)
        boots.check(there)
    return _until_settled(boots, most, terms, judge)


def by_fleet(
    settings: Settings, builds: Sequence[Bootable], most: int, terms: Terms, limits: Sequence[str]
) -> Gate:
    """Boot both kernels in labs of the fleet's hosts until there is a verdict.

    The sentence of the result has the reasons if hosts could not make all boots.

    :raise FleetError: the fleet cannot be used.
    """
    base, candidate = kernels = [build.build.kernel for build in builds]
    boots = FleetBoots(settings, kernels, _print_record_of_host)
    machines = [each.name for each in boots.members]
    click.echo(f"kickbench: {', '.join(machines)} boot both kernels", err=True)
    for other in boots.others:
        click.echo(f"kickbench: {other}, and does not take part", err=True)

    def judge(records: Sequence[Record], terms: Terms) -> Gate:
        if boots.missing and not {each.kernel for each in records} >= set(kernels):
            raise CampaignIncomplete(f"There is nothing to judge. {' '.join(boots.missing)}")
        return judging.compare(records, base, candidate, terms, machines=machines)

    there = boots.records()
    check_limits({each.request for each in settling.cases(there)}, limits)
    check_alike(there, base, candidate)
    boots.check(there)
    found = _until_settled(boots, most, terms, judge)
    return dataclasses.replace(found, sentence=" ".join([found.sentence, *boots.missing]))


def _until_settled(
    boots: Boots,
    most: int,
    terms: Terms,
    judge: Callable[[Sequence[Record], Terms], Gate],
) -> Gate:
    """Boot both kernels and judge them, repeatedly, until there is a verdict.

    :param most: the largest number of boots of each kernel on each host.
    """
    looks = settling.looks(most)
    terms = dataclasses.replace(terms, looks=len(looks))
    found = None
    for number, count in enumerate(looks, start=1):
        more = boots.make(count, found)
        found = judge(boots.records(), terms)
        each = f"{present.count(count, 'boot')} of each"
        text = f"look {number} of {len(looks)}, {each}: {found.verdict}"
        click.echo(f"kickbench: {text}", err=True)
        if found.verdict is not Verdict.INCONCLUSIVE or not more:
            break
    assert found is not None
    return found


def check_limits(held: Container[str], given: Sequence[str]) -> None:
    """Refuse a limit of a request that has no records.

    :param held: the requests for which there are records and a limit.
    :param given: the values of --limit.
    :raise CannotCompare: a request in `given` is not in `held`.
    """
    for name, _, text in (each.partition("=") for each in given):
        if text != NO_LIMIT and name not in held:
            raise CannotCompare(
                f"--limit names {name}, but there are no records of {name}; "
                f"`kickbench lab campaign --request {name} ...` makes some."
            )


def print_releases(names: Sequence[str], kernels: Sequence[Kernel]) -> None:
    """Print which release each name means, unless the name is the release."""
    for name, kernel in zip(names, kernels, strict=True):
        if name.removeprefix("v") != kernel.release:
            click.echo(f"kickbench: {name} is {kernel.release}", err=True)


def _print_record(made: Record) -> None:
    click.echo(present.trial_line(made), err=True)


def _print_record_of_host(made: Record) -> None:
    click.echo(f"{made.host.machine}: {present.trial_line(made)}", err=True)


def _print_boot(facts: Facts) -> None:
    click.echo(f"kickbench: {facts}", err=True)
