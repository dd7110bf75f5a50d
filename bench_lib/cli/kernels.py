# SPDX-License-Identifier: BSD-3-Clause
"""kickbench kernels: list, fetch, add and remove kernel builds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console

from bench_lib import interrupt, ownership, present, record
from bench_lib.cli import adding, options
from bench_lib.errors import (
    FetchFailed,
    GuestKernelMissing,
    HostError,
    KernelAmbiguous,
    KernelError,
    ToolFailed,
    UnknownKernel,
)
from bench_lib.guest.workloads.description import LINUX
from bench_lib.host import identity
from bench_lib.kernel import debian, guest
from bench_lib.kernel.ledger import Build, Ledger, version_key
from bench_lib.kernel.names import meant, unknown
from bench_lib.kernel.store import Bootable, Store
from bench_lib.kernel.suites import Suites
from bench_lib.settings import Settings
from bench_lib.trial.case import Case


def fetch_guest(settings: Settings, cases: Iterable[Case]) -> None:
    """Fetch the kernel of Linux guests if a case needs it and the cache does not have it.

    :raise GuestKernelMissing: the folder that the settings name has no build.
    :raise KernelError: there is no such kernel, or it could not be downloaded.
    """
    if not any(case.shape.image == LINUX for case in cases):
        return
    try:
        guest.find(settings)
    except GuestKernelMissing:
        if guest.is_path(settings):
            raise
        try:
            bootable(settings, settings.guest_kernel)
        except UnknownKernel as error:
            raise UnknownKernel(f"KICKBENCH_GUEST_KERNEL: {error}") from None


def bootable(settings: Settings, name: str) -> Bootable:
    """The build that a user calls `name`. It is fetched if it is not in the cache.

    :raise UnknownKernel: there is no such kernel.
    :raise FetchFailed: it could not be downloaded or unpacked.
    :raise Interrupted: a signal arrived; the cache is as it was before.
    """
    cache = Store.of(settings)
    fetched = sorted((each.build for each in cache.all()), key=lambda build: build.date)
    suites = Suites.of(settings)
    here = meant(name, fetched, suites.meanings())
    # Only Debian's suites know which of their kernels is the newest.
    if not here or name.startswith("debian/"):
        try:
            _refresh(suites)
        except (KernelError, HostError, ToolFailed):
            if not here and not suites.all:
                raise
        if suites.problem and not here and not suites.all:
            raise FetchFailed(suites.problem)
        if suites.problem:
            click.echo(f"kickbench: {suites.problem}", err=True)
        offers = debian.offers(suites)
        if offered := meant(name, offers, suites.meanings()):
            try:
                return debian.find(cache, offered[-1]) or _fetch(cache, suites, offered[-1])
            except FetchFailed as error:
                if not here or not suites.problem:
                    raise
                click.echo(
                    f"kickbench: {error} {here[-1].release} from the cache is used.", err=True
                )
        if not here:
            # A suite that could not be read may have this kernel.
            for remark in suites.remarks():
                if remark != suites.problem:
                    click.echo(f"kickbench: {remark}", err=True)
            raise unknown(name, [*fetched, *offers], "in the cache or in Debian's suites")
    found = cache.find_build(here[-1])
    assert found is not None
    return found


def _refresh(suites: Suites, *, always: bool = False) -> None:
    """Read the lists of Debian's suites if they are old."""
    if suites.stale or always:
        with (
            interrupt.raised(),
            present.download(
                Console(stderr=True), "reading the lists of Debian's kernels"
            ) as on_bytes,
        ):
            suites.refresh(lambda there: on_bytes(there, 0))


def _fetch(cache: Store, suites: Suites, offer: debian.Offer) -> Bootable:
    with (
        interrupt.raised(),  # A signal also ends apt and removes its files.
        present.download(
            Console(stderr=True), f"fetching {offer.release} of {offer.suite}"
        ) as on_bytes,
    ):
        return debian.fetch(cache, suites, offer, on_bytes)


@click.group()
def kernels() -> None:
    """List, fetch, add and remove kernel builds.

    Wherever a command takes a kernel, its name is one of these:

    \b
      6.1.0-41-amd64               a release
      v6.1.0-41-amd64              its tag
      0123abcd                     the first digits of a build's id, at least four
      debian/6.1, debian/6.1-rt    the newest kernel of a stream
      debian/newest                the newest kernel of all streams of Debian
      debian/trixie                the kernel that a suite of Debian installs

    \b
    Examples:
      kickbench kernels list
      kickbench kernels fetch debian/6.1 debian/trixie
      kickbench kernels add ~/src/linux
    """


@kernels.command("list")
@options.as_json()
@click.option("--all", "every", is_flag=True, help="Also list older kernels of Debian's suites.")
@click.option("--refresh", is_flag=True, help="Read Debian's lists even if they are not old.")
def list_command(as_json: bool, every: bool, refresh: bool) -> None:
    """List the kernel builds that are known.

    These are the builds that were measured or fetched, and the newest of each of Debian's streams.
    Debian's suites are read from where this host's own apt gets Debian. Their lists are kept in the
    cache, and read again after six hours.

    `interruptible` is what the types (BTF) of KVM declare. Trials show what the kernel does.

    \b
    Examples:
      kickbench kernels list
      kickbench kernels list --all --refresh
      kickbench kernels list --json | jq '.[] | select(.fetched).release'
    """
    settings = Settings.from_environment()
    suites = Suites.of(settings)
    try:
        _refresh(suites, always=refresh)
        failure = ""
    except (KernelError, HostError, ToolFailed) as error:
        failure = str(error)
    offers = debian.offers(suites)
    newest = {each.stream: each for each in offers}
    rows = _rows(settings, offers if every else list(newest.values()))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    else:
        present.kernels(present.stdout(), rows)
        total = present.size(sum(row.size_bytes for row in rows))
        click.echo(f"The cache takes {total} in {Store.of(settings).folder}.")
    remarks = suites.remarks() or ([failure] if failure else [])
    if suites.age():
        remarks.append(
            f"Debian's lists were read {suites.age()}. They have {len(offers)} kernels; "
            "`kickbench kernels list --all` shows all."
        )
    for remark in remarks:
        click.echo(f"kickbench: {remark}", err=True)


def _rows(settings: Settings, offers: Sequence[debian.Offer]) -> list[present.KernelRow]:
    measured = {each.kernel for each in record.read(settings.records)[0]}
    fetched = {each.build.kernel: each for each in Store.of(settings).all()}
    builds: dict[object, Build] = {
        each.kernel: each for each in Ledger(settings.ledger).including_booted()
    }
    builds.update({each.build.kernel: each.build for each in fetched.values()})
    rows = [
        present.KernelRow(
            release=build.release,
            date=build.date[:10],
            stream=build.stream,
            source=fetched[kernel].source if kernel in fetched else "",
            fetched=kernel in fetched,
            booted=kernel == identity.booted(),
            measured=kernel in measured,
            interruptible=fetched[kernel].interruptible if kernel in fetched else "",
            size_bytes=fetched[kernel].size_bytes if kernel in fetched else 0,
        )
        for kernel, build in builds.items()
    ]
    known = {row.release for row in rows}
    rows += [
        present.KernelRow(
            release=each.release,
            date="",
            stream=each.stream,
            source=each.suite,
            fetched=False,
            booted=False,
            measured=False,
        )
        for each in offers
        if each.release not in known
    ]
    return sorted(rows, key=lambda row: version_key(row.release))


@kernels.command("fetch")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def fetch_command(names: tuple[str, ...]) -> None:
    """Download Debian's kernels into the cache.

    apt downloads the packages and checks their signatures. Nothing is installed.

    \b
    Examples:
      kickbench kernels fetch debian/6.1
      kickbench kernels fetch debian/bookworm debian/trixie
    """
    settings = Settings.from_environment()
    for name in names:
        _known(settings, bootable(settings, name))


@kernels.command("add")
@click.argument(
    "paths", metavar="[PATH]...", type=click.Path(exists=True, path_type=Path), nargs=-1
)
@click.option("--installed", is_flag=True, help="Add all kernels that are installed on this host.")
def add_command(paths: tuple[Path, ...], installed: bool) -> None:
    """Add your own kernel to the cache.

    PATHs are the parts of one kernel: its packages or archives, an image and the folder of its
    modules, or a built tree. Packages are .deb (Debian, Ubuntu, `make bindeb-pkg`) or .rpm
    (Fedora). Nothing is installed.

    \b
    Examples:
      kickbench kernels add linux-image-6.1.0-41-amd64_6.1.158-1_amd64.deb
      kickbench kernels add linux-image-*.deb linux-modules-*.deb  # Ubuntu
      kickbench kernels add kernel-core-*.rpm kernel-modules-core-*.rpm
      kickbench kernels add linux-6.18.tar.zst
      kickbench kernels add /boot/vmlinuz-6.12.94    # and its /lib/modules
      kickbench kernels add vmlinuz lib/modules/6.12.94
      kickbench kernels add ~/src/linux
      kickbench kernels add --installed
    """
    if installed == bool(paths):
        raise click.UsageError("Name the paths of a kernel, or give --installed, but not both.")
    settings = Settings.from_environment()
    cache = Store.of(settings)
    for added in adding.of_this_host(cache) if installed else [adding.of_paths(cache, paths)]:
        _known(settings, added)


def _known(settings: Settings, found: Bootable) -> None:
    """Add a build to the ledger, so that asv has a name for it, and print what it is."""
    Ledger(settings.ledger).add(found.build)
    click.echo(
        f"{found.build.release} {found.build.version}, from {found.source}; "
        f"interruptible page fault of KVM, according to its BTF: {found.interruptible}"
    )


@kernels.command("remove")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def remove_command(names: tuple[str, ...]) -> None:
    """Delete kernels from the cache.

    Their records are kept, and so are their entries in the list of known kernels.

    \b
    Examples:
      kickbench kernels remove 6.1.0-41-amd64
      kickbench kernels remove debian/6.1 debian/6.12
    """
    settings = Settings.from_environment()
    cache = Store.of(settings)
    doomed = {each.build.id: each for each in [_cached(cache, name) for name in names]}
    # A lab reads modules of its kernel for as long as it runs. A user who may not write to the
    # runtime folder has no runs.
    if os.access(settings.runtime, os.W_OK):
        ownership.refuse_if_busy(settings.runtime)
    for each in doomed.values():
        size = each.size_bytes
        cache.remove(each)
        click.echo(f"removed {each.build.release}, {present.size(size)}")


def _cached(cache: Store, name: str) -> Bootable:
    """The one build in the cache that a user calls `name`.

    :raise UnknownKernel: there is no such build.
    :raise KernelAmbiguous: there are several such builds.
    """
    there = cache.all()
    builds = [each.build for each in there]
    found = meant(name, builds)
    if not found:
        raise unknown(name, builds, "in the cache")
    if len(found) > 1:
        each = ", ".join(f"{build.id[:12]} ({build.version})" for build in found)
        raise KernelAmbiguous(f"{name} means {len(found)} builds; name one by its id: {each}.")
    return next(each for each in there if each.build == found[0])
